package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"bramble.dev/runtime/shim"
)

// Attach connects to the streams of a running container until it ends or ctx is done. Output that came before is not
// seen. A client that reads slowly slows the container down; one that does not read at all is cut off. When the client's
// stdin ends, so does the container's, if the pod says stdinOnce; else it stays open for the next client, and this one leaves.
func (e *Engine) Attach(ctx context.Context, id string, s Streams) error {
	t, err := e.task(id)
	if err != nil {
		return err
	}
	a, err := t.pod.client.Attach(ctx, id)
	var refused *shim.Error
	if errors.As(err, &refused) {
		return fmt.Errorf("attach to container %s: it is not running", id)
	}
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	defer a.Close()
	defer context.AfterFunc(ctx, func() { _ = a.Close() })()
	var left atomic.Bool
	if s.Stdin != nil {
		go func() { // ends when Stdin does
			switch err := a.Input(s.Stdin); {
			case err != nil:
			case t.rec.Stdin && !t.rec.StdinOnce:
				left.Store(true)
				_ = a.Leave()
			default:
				_ = a.CloseInput()
			}
		}()
	}
	var resizing sync.WaitGroup
	done := make(chan struct{})
	defer resizing.Wait()
	defer close(done)
	if s.Resize != nil {
		resizing.Go(func() {
			followSize(done, s.Resize, func(size TerminalSize) { _ = a.Resize(size.Height, size.Width) })
		})
	}
	if _, err := a.Output(s.Stdout, s.Stderr); err != nil && ctx.Err() == nil && !left.Load() {
		select {
		case <-t.exited: // it ended while we were attaching
			return nil
		default:
		}
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	return ctx.Err()
}
