package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// remoteDeadline is how long a pod's worker waits for the kernel to do something on a file server that answered when it was asked.
const remoteDeadline = 20 * time.Second

// remoteAtOnce bounds the threads that may hang in the kernel for one server. Each server has its own: one that is away delays
// none of the others.
const remoteAtOnce = 4

// remote runs system calls that may hang for as long as a file server is away, apart from who asks.
type remote struct {
	mounted chan struct{} // capacity 1: an export was mounted

	mu      sync.Mutex
	slots   map[string]chan struct{} // by server
	pending map[string]bool          // what is being done, by what it is about: bounded by slots
	leaving map[types.UID]bool       // pods that wait for nothing more
}

func newRemote() *remote {
	return &remote{mounted: make(chan struct{}, 1), slots: map[string]chan struct{}{}, pending: map[string]bool{}, leaving: map[types.UID]bool{}}
}

func (r *remote) poke() {
	select {
	case r.mounted <- struct{}{}:
	default:
	}
}

// do runs a call about something, of which there is never a second one: what hung before is waited for first. Without a server it
// waits for no other call: it ends something, and must not wait for what hangs.
func (r *remote) do(ctx context.Context, server, about string, call func() error) error {
	slots, ok := r.begin(server, about)
	if !ok {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, remoteDeadline)
	defer cancel()
	if slots != nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			r.end(about)
			return errAway
		}
	}
	result := make(chan error, 1)
	go func() { // the kernel waits for it; nobody else can
		err := call()
		if slots != nil {
			<-slots
		}
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

func (r *remote) begin(server, about string) (chan struct{}, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[about] {
		return nil, false
	}
	r.pending[about] = true
	if server != "" && r.slots[server] == nil {
		r.slots[server] = make(chan struct{}, remoteAtOnce)
	}
	return r.slots[server], true
}

// mounting is what the calls that mount something for a pod are about, before the path.
const mounting = "mount "

// stopMounting takes the places away on which something of a pod is still being mounted by a call that nobody waits for any more:
// it fails then. Nothing may be mounted in a folder while it is removed, or what is on the server would be.
func (r *remote) stopMounting(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for about := range r.pending {
		if at, ok := strings.CutPrefix(about, mounting); ok && within(at, dir) {
			errs = append(errs, ignoreMissing(os.Remove(at))) // an empty folder, or in use
		}
	}
	return errors.Join(errs...)
}

func (r *remote) end(about string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, about)
}

func (m mountPoint) remote() bool { return m.Kind == "nfs" || m.Kind == "nfs4" }

// server of an export that is mounted, as its mount names it.
func (m mountPoint) server() string {
	at := strings.Index(m.Source, ":/")
	if at < 0 {
		return m.Source
	}
	return m.Source[:at]
}

func (m mountPoint) option(name string) string {
	for _, o := range m.Options {
		if value, ok := strings.CutPrefix(o, name+"="); ok {
			return value
		}
	}
	return ""
}

// ask whether the server of a mount answers. One that is not asked over TCP counts as there.
func (m mountPoint) ask(ctx context.Context) error {
	host := m.option("addr")
	if host == "" || strings.HasPrefix(m.option("proto"), "udp") || strings.HasPrefix(m.option("proto"), "rdma") || m.option("vers") == "3" {
		return nil
	}
	port := m.option("port")
	if port == "" {
		port = nfsPort
	}
	return ask(ctx, m.server(), host, port)
}

// Touch does something with the content of a volume. What lies on a file server is done apart from the caller, and given up when
// the server does not answer; ctx is done then.
func (v *Volumes) Touch(ctx context.Context, path string, do func(context.Context) error) error {
	m, err := mountOf(path)
	if err != nil {
		return err
	}
	if !m.remote() {
		return do(ctx)
	}
	if err := m.ask(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, remoteDeadline)
	defer cancel()
	err = v.remote.do(ctx, m.server(), "touch "+path, func() error {
		// A server that has just come back answers before the kernel has found it again.
		var fs unix.Statfs_t
		_ = unix.Statfs(path, &fs)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return do(ctx)
	})
	if errors.Is(err, errAway) {
		return fmt.Errorf("nfs server %s: %w", m.server(), err)
	}
	return err
}

// unmountBelow undoes all mounts at and below a pod's folder, the deepest first. A mount whose server is away is detached: it goes
// when the last that waits for it lets go.
func (v *Volumes) unmountBelow(ctx context.Context, uid types.UID) error {
	dir := v.podDir(uid)
	all, err := mountPoints()
	if err != nil {
		return err
	}
	var mine []mountPoint
	for _, m := range all {
		if within(m.At, dir) {
			mine = append(mine, m)
		}
	}
	slices.SortStableFunc(mine, func(a, b mountPoint) int { return strings.Compare(b.At, a.At) })
	for _, m := range mine {
		if err := v.unmount(ctx, m, all); err != nil {
			return fmt.Errorf("unmount %s: %w", m.At, err)
		}
	}
	return nil
}

func (v *Volumes) unmount(ctx context.Context, m mountPoint, all []mountPoint) error {
	if !m.remote() {
		return ignore(unix.Unmount(m.At, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH), unix.EINVAL)
	}
	away := m.ask(ctx) != nil
	if !away { // what was not written yet is written now
		if err := v.remote.do(ctx, m.server(), "unmount "+m.At, func() error { return unix.Unmount(m.At, unix.UMOUNT_NOFOLLOW) }); err == nil || errors.Is(err, unix.EINVAL) {
			return nil
		}
	} else if v.mayForce(m, all) {
		_ = v.force(ctx, m)
	}
	err := v.remote.do(ctx, "", "detach "+m.At, func() error { return detach(m.At) })
	if there, look := isMountPoint(m.At); look == nil && !there {
		return nil // what the kernel still does for it, it does by itself
	}
	return err
}

// ErrShared is the answer when what a pod waits for cannot be given up without harm to others.
var ErrShared = errors.New("other pods of this node use the same export")

// GiveUp ends what processes of a pod that is being killed wait for: calls to servers that do not answer fail from now on, and what
// was not written is lost. Without that a process that has something to write survives even SIGKILL for as long as its server is
// away. It says which servers; it is called again until the processes are gone.
func (v *Volumes) GiveUp(ctx context.Context, uid types.UID) (servers []string, err error) {
	all, err := mountPoints()
	if err != nil {
		return nil, err
	}
	v.remote.leave(uid)
	for _, m := range all {
		if !m.remote() || !within(m.At, v.podDir(uid)) || slices.Contains(servers, m.server()) || m.ask(ctx) == nil {
			continue
		}
		if !v.mayForce(m, all) {
			return servers, fmt.Errorf("nfs server %s does not answer, and %w", m.server(), ErrShared)
		}
		if err := v.force(ctx, m); err != nil {
			return servers, fmt.Errorf("give up %s: %w", m.At, err)
		}
		servers = append(servers, m.server())
	}
	return servers, nil
}

// force ends what waits for a server. Busy is the answer that is expected: the mount stays until nobody uses it.
func (v *Volumes) force(ctx context.Context, m mountPoint) error {
	return v.remote.do(ctx, "", "force "+m.At, func() error {
		return ignore(unix.Unmount(m.At, unix.UMOUNT_NOFOLLOW|unix.MNT_FORCE), unix.EBUSY, unix.EINVAL)
	})
}

// mayForce tells whether nobody else uses the file system of a mount: the kernel has one for all mounts of an export, and a forced
// end is an error for whoever waits for it.
func (v *Volumes) mayForce(m mountPoint, all []mountPoint) bool {
	v.remote.mu.Lock()
	defer v.remote.mu.Unlock()
	for _, other := range all {
		if other.Device == m.Device && !v.ownedByLeaving(other.At) {
			return false
		}
	}
	return true
}

// ownedByLeaving tells whether a mount is of a pod that waits for nothing more: a volume of it, or a part of one (subPath).
func (v *Volumes) ownedByLeaving(at string) bool {
	for part := range strings.SplitSeq(at, "/") {
		if v.remote.leaving[types.UID(part)] {
			return true
		}
	}
	return false
}

func (r *remote) leave(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving[uid] = true
}

func (r *remote) left(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leaving, uid)
}

func ignore(err error, which ...error) error {
	if slices.Contains(which, err) {
		return nil
	}
	return err
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
