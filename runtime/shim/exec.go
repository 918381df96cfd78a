package shim

import (
	"context"
	"net"
	"os"
	"syscall"
)

// Process is a command that was executed in a container.
type Process struct {
	client Client
	conn   *net.UnixConn
	id     string
}

// Exec starts a command; files are its standard streams, all three or none.
func (c Client) Exec(ctx context.Context, t Task, files ...*os.File) (*Process, error) {
	conn, _, err := c.call(ctx, msgRun, t.fields("exec"), files...)
	if err != nil {
		return nil, err
	}
	return &Process{client: c, conn: conn, id: t.ID}, nil
}

// Wait returns the command's exit code. When ctx is done the command is killed.
func (p *Process) Wait(ctx context.Context) (int, error) {
	defer p.conn.Close()
	defer context.AfterFunc(ctx, func() {
		_ = p.client.Signal(context.WithoutCancel(ctx), p.id, syscall.SIGKILL)
	})()
	for {
		k, f, err := readFrame(p.conn)
		if err != nil {
			return -1, lost(ctx, err)
		}
		if k == msgExited {
			return int(f.int("code")), nil
		}
	}
}
