package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// remoteDeadline is how long a pod's worker waits for a file server.
const remoteDeadline = 20 * time.Second

// remoteAtOnce bounds the threads that may hang in the kernel for servers that are away.
const remoteAtOnce = 16

// remote runs system calls that may hang for as long as a file server is away, apart from who asks.
type remote struct{ slots chan struct{} }

func newRemote() *remote { return &remote{make(chan struct{}, remoteAtOnce)} }

// errAway is what a caller gets when the server did not answer in time. The call itself goes on.
var errAway = errors.New("the file server does not answer")

func (r *remote) do(ctx context.Context, call func() error) error {
	ctx, cancel := context.WithTimeout(ctx, remoteDeadline)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return errAway
	}
	result := make(chan error, 1)
	go func() {
		defer func() { <-r.slots }()
		result <- call()
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return errAway
	}
}

// unmountBelow undoes all mounts at and below a folder, the deepest first. A mount whose server is away is detached: it goes when
// the last that waits for it lets go.
func (r *remote) unmountBelow(ctx context.Context, dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		err := r.do(ctx, func() error { return unix.Unmount(m, unix.UMOUNT_NOFOLLOW) })
		if err != nil && !errors.Is(err, unix.EINVAL) {
			err = r.do(ctx, func() error { return unix.Unmount(m, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH) })
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount point any more
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	return nil
}
