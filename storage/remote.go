package storage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// remoteDeadline is how long a pod's worker waits for a file server.
const remoteDeadline = 20 * time.Second

// remoteAtOnce bounds the threads that may hang in the kernel for servers that are away.
const remoteAtOnce = 16

// remote runs system calls that may hang for as long as a file server is away, apart from who asks.
type remote struct {
	slots chan struct{}

	mu      sync.Mutex
	pending map[string]bool // what is being done, by what it is about: bounded by slots
}

func newRemote() *remote {
	return &remote{slots: make(chan struct{}, remoteAtOnce), pending: map[string]bool{}}
}

// errAway is what a caller gets when the server did not answer in time. The call itself goes on.
var errAway = errors.New("the file server does not answer")

// do runs a call about something, of which there is never a second one: what hung before is waited for first.
func (r *remote) do(ctx context.Context, about string, call func() error) error {
	if !r.begin(about) {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, remoteDeadline)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		r.end(about)
		return errAway
	}
	result := make(chan error, 1)
	go func() {
		err := call()
		<-r.slots
		r.end(about)
		result <- err
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return errAway
	}
}

func (r *remote) begin(about string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[about] {
		return false
	}
	r.pending[about] = true
	return true
}

func (r *remote) end(about string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, about)
}

// unmountBelow undoes all mounts at and below a folder, the deepest first. A mount whose server is away is detached: it goes when
// the last that waits for it lets go.
func (r *remote) unmountBelow(ctx context.Context, dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		err := r.do(ctx, "unmount "+m, func() error { return unix.Unmount(m, unix.UMOUNT_NOFOLLOW) })
		if err != nil && !errors.Is(err, unix.EINVAL) {
			err = r.do(ctx, "detach "+m, func() error { return unix.Unmount(m, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH) })
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount point any more
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return nil
}

// detach undoes the mounts at a folder, if there are any.
func detach(dir string) error {
	for {
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		if err == unix.EINVAL || err == unix.ENOENT {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}
