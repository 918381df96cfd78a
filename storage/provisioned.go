package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Folder is what a volume is that was made for a claim: a folder of this node, or of an export of an NFS server.
type Folder struct {
	Name    string // one part of a path
	Server  string // "": it is of this node
	Share   string
	Options []string // to mount the share with
	Mode    fs.FileMode
}

// ErrInUse is the answer to a folder that a pod of this node still has.
var ErrInUse = errors.New("the volume is still in use")

// errName is the answer to a folder that would lead elsewhere.
var errName = errors.New("the volume's folder must have a plain name")

func (f Folder) check() error {
	if f.Name == "" || f.Name != filepath.Base(f.Name) || f.Name == "." || f.Name == ".." || f.Name == "/" {
		return errName
	}
	return nil
}

// makeFolder makes what is not there yet, below an open folder, from which no name or link leads out (os.Root).
func makeFolder(root *os.Root, f Folder) error {
	switch err := root.Mkdir(f.Name, 0o700); {
	case errors.Is(err, fs.ErrExist):
		info, err := root.Lstat(f.Name)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a folder", f.Name)
		}
		return err
	case err != nil:
		return err
	}
	return root.Chmod(f.Name, f.Mode) // whatever the umask is
}

// mountFolder gives a volume that was made for a claim, and makes its folder if this is the first pod that mounts it.
func (v volume) mountFolder(ctx context.Context, f Folder, pv *corev1.PersistentVolume) (string, error) {
	if err := f.check(); err != nil {
		return "", err
	}
	if f.Server != "" {
		if there, err := isMountPoint(v.path); err != nil || there {
			return v.path, err
		}
		if err := v.onExport(ctx, f, func(root *os.Root) error { return makeFolder(root, f) }); err != nil {
			return "", err
		}
		return v.mountExport(ctx, pv.Spec.NFS, pv.Spec.MountOptions)
	}
	root, err := v.openLocal()
	if err != nil {
		return "", err
	}
	defer root.Close()
	v.use(f.Name, v.pod.UID)
	if err := makeFolder(root, f); err != nil {
		return "", fmt.Errorf("make the volume's folder: %w", err)
	}
	path := filepath.Join(v.local, f.Name)
	return path, v.setGroupOnce(path)
}

func (v *Volumes) openLocal() (*os.Root, error) {
	if err := os.MkdirAll(v.local, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of local volumes: %w", err)
	}
	return os.OpenRoot(v.local)
}

// Remove takes away a folder with all that is in it, and nothing else. One that is not there is removed already.
func (v *Volumes) Remove(ctx context.Context, f Folder) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.Server != "" {
		return v.onExport(ctx, f, func(root *os.Root) error { return root.RemoveAll(f.Name) })
	}
	if uid, used := v.user(f.Name); used {
		return fmt.Errorf("pod %s: %w", uid, ErrInUse)
	}
	root, err := v.openLocal()
	if err != nil {
		return err
	}
	defer root.Close()
	// What a pod has mounted in its volume, and shared with the host, is not the volume's.
	left, err := mountsBelow(filepath.Join(v.local, f.Name))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is still mounted", left[0])
	}
	return root.RemoveAll(f.Name)
}

// exports is the folder in which shares are mounted while folders are made and removed on them; no pod can be called so.
const exports = ".exports"

// onExport does something on a share, which is mounted for that alone. It runs apart from who waits for it.
func (v *Volumes) onExport(ctx context.Context, f Folder, work func(*os.Root) error) error {
	at := filepath.Join(v.dir, exports, f.Name)
	e, err := findExport(ctx, f.Server, f.Share, false, f.Options)
	if err != nil {
		return err
	}
	var refused error // by the kernel or the server
	err = v.remote.do(ctx, f.Server, at, func() error {
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		v.nameClient()
		if refused = e.mount(at); refused != nil {
			return errors.Join(refused, os.Remove(at))
		}
		return errors.Join(onRoot(at, work), detach(at), os.Remove(at))
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errAway): // it may still be going on
		return e.explain(err)
	case refused != nil:
		return e.explain(refused)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("folder %s of %s: %w: the export must let this node's root write there (no_root_squash)", f.Name, e.source, fs.ErrPermission)
	}
	return fmt.Errorf("folder %s of %s: %w", f.Name, e.source, err)
}

// sweepExports undoes the mounts that an agent which was killed had made for such work. One that resists is no reason not to start.
func (v *Volumes) sweepExports() {
	dir := filepath.Join(v.dir, exports)
	left, err := mountsBelow(dir)
	errs := []error{err}
	for _, at := range left {
		errs = append(errs, v.remote.do(context.Background(), "", "detach "+at, func() error { return detach(at) }))
	}
	entries, err := os.ReadDir(dir)
	errs = append(errs, ignoreMissing(err))
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name()))) // an empty folder: nothing is ever removed through a mount
	}
	if err := errors.Join(errs...); err != nil {
		v.log.Warn("leftovers of work on exports could not all be removed", "err", err)
	}
}

func onRoot(dir string, work func(*os.Root) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return work(root)
}

// use notes that a pod has a folder of this node. It is known again after a restart, when the pod's volumes are mounted again.
func (v *Volumes) use(name string, uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.users[name] == nil {
		v.users[name] = map[types.UID]bool{}
	}
	v.users[name][uid] = true
}

func (v *Volumes) user(name string) (types.UID, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for uid := range v.users[name] {
		return uid, true
	}
	return "", false
}

// letGo notes that a pod has none any more.
func (v *Volumes) letGo(uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, uids := range v.users {
		if delete(uids, uid); len(uids) == 0 {
			delete(v.users, name)
		}
	}
}
