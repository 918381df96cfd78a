// Package lockfile keeps a second process from where one is at work. A lock lies on a file of its own, and the kernel lets go
// of it when the process ends, however it ends; the file stays.
//
//	held, err := lockfile.Take(filepath.Join(dir, "lock"))
//	if errors.Is(err, lockfile.ErrHeld) {
//		return fmt.Errorf("another one works in %s", dir)
//	}
//	defer held.Release()
//
// Every package may import this one; it imports only the standard library.
package lockfile

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrHeld says that another process, or another part of this one, has the lock.
var ErrHeld = errors.New("held by another")

// Lock is a lock that is held.
type Lock struct{ file *os.File }

// Take takes a lock without waiting for it.
func Take(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrHeld
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// Release gives the lock up. Closing alone would not: a child that is just being started has a copy of the descriptor.
func (l *Lock) Release() error {
	err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN)
	return errors.Join(err, l.file.Close())
}
