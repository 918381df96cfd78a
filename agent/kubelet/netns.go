package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// dialLocal connects to a port of the loopback in a network namespace; "" is our own. A pod may
// listen there alone, so its address will not do.
func dialLocal(ctx context.Context, netns string, port int32) (net.Conn, error) {
	if netns == "" {
		return dialEither(ctx, port)
	}
	ns, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is never unlocked: the runtime ends it with the goroutine, and nobody else finds
		// himself in the pod's network. A socket stays where it was made.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter the network namespace: %w", err)}
			return
		}
		conn, err := dialEither(ctx, port)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func dialEither(ctx context.Context, port int32) (net.Conn, error) {
	var d net.Dialer
	// One address a call: with two, package net would dial from other threads.
	conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err == nil {
		return conn, nil
	}
	conn, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port))))
	if err6 == nil {
		return conn, nil
	}
	return nil, errors.Join(err, err6)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}
