package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watcher tells when something happens in a log's folder.
type watcher struct {
	f      *os.File
	events chan error // one is enough: it only says "look again"
}

func watch(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), events: make(chan error, 1)}
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), mask); err != nil {
		w.f.Close()
		return nil, fmt.Errorf("inotify %s: %w", filepath.Dir(path), err)
	}
	go w.read()
	return w, nil
}

// read ends when the file is closed, which close waits for.
func (w *watcher) read() {
	defer close(w.events)
	buf := make([]byte, 4096)
	for {
		_, err := w.f.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		select {
		case w.events <- err:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (w *watcher) close() {
	w.f.Close()
	for range w.events { // until read has ended
	}
}

// wait returns when there may be something new.
func (w *watcher) wait(ctx context.Context, ended <-chan struct{}) error {
	timer := time.NewTimer(10 * time.Second) // an event that the queue lost costs so much, not for ever
	defer timer.Stop()
	select {
	case err := <-w.events:
		return err
	case <-ended:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
