package shim

import (
	"context"
	"errors"
	"io"
	"net"
)

// Attachment is a connection to the streams of a running container.
type Attachment struct{ conn *net.UnixConn }

// Attach connects to a container's streams.
func (c Client) Attach(ctx context.Context, id string) (*Attachment, error) {
	var f fields
	f.add("id", id)
	conn, _, err := c.call(ctx, msgAttach, f)
	if err != nil {
		return nil, err
	}
	return &Attachment{conn}, nil
}

// Output copies what the container writes until it ends, and returns its exit code. A terminal's output is all stdout.
func (a *Attachment) Output(stdout, stderr io.Writer) (int, error) {
	for {
		k, f, err := readFrame(a.conn)
		if err != nil {
			return -1, err
		}
		w := stdout
		switch k {
		case msgExited:
			return int(f.int("code")), nil
		case msgStderr:
			w = stderr
		case msgStdout:
		default:
			continue
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(f); err != nil {
			return -1, err
		}
	}
}

// Input copies r to the container's stdin until r ends.
func (a *Attachment) Input(r io.Reader) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := a.conn.Write(frame(msgStdin, buf[:n])); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// CloseInput closes the container's stdin.
func (a *Attachment) CloseInput() error {
	_, err := a.conn.Write(frame(msgStdinClose, nil))
	return err
}

// Leave detaches once the container has taken what was sent. Output ends then, with an error.
func (a *Attachment) Leave() error { return a.conn.CloseWrite() }

// Resize changes the size of the container's terminal.
func (a *Attachment) Resize(rows, cols uint16) error {
	var f fields
	f.addInt("rows", int64(rows))
	f.addInt("cols", int64(cols))
	_, err := a.conn.Write(frame(msgResize, f))
	return err
}

// Close detaches.
func (a *Attachment) Close() error { return a.conn.Close() }
