package shim

import (
	"context"
	"net"
)

// Watch is a connection on which the shim tells what happens to the pod.
type Watch struct {
	conn  *net.UnixConn
	Tasks []TaskState // all containers at the time of the call
	Pause int         // pid of the pause process; 0 when it has ended
}

// Watch begins to watch.
func (c Client) Watch(ctx context.Context) (*Watch, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	w := &Watch{conn: conn}
	stop := watchContext(ctx, conn)
	defer stop()
	if _, err := conn.Write(frame(msgWatch, nil)); err != nil {
		conn.Close()
		return nil, lost(ctx, err)
	}
	for {
		k, f, err := readFrame(conn)
		if err != nil {
			conn.Close()
			return nil, lost(ctx, err)
		}
		switch k {
		case msgTask:
			w.Tasks = append(w.Tasks, state(f))
		case msgReady:
			w.Pause = int(f.int("pause"))
			return w, nil
		case msgFailed:
			conn.Close()
			return nil, failure(f)
		}
	}
}

// Next waits for the next event: a container that has started or ended, or (nil, nil) for the pause process' end. An error means that
// the shim is gone, or that Close was called.
func (w *Watch) Next() (*TaskState, error) {
	for {
		k, f, err := readFrame(w.conn)
		if err != nil {
			return nil, err
		}
		switch k {
		case msgExited, msgStarted:
			t := state(f)
			return &t, nil
		case msgPauseExited:
			return nil, nil
		}
	}
}

// Close ends the watch; a Next that waits returns.
func (w *Watch) Close() error { return w.conn.Close() }
