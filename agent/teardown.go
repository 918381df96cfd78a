package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bramble.dev/agent/control"
	"bramble.dev/internal/mountinfo"
	"bramble.dev/mesh"
	"bramble.dev/mesh/ingress"
	"bramble.dev/runtime/engine"
)

// Teardown ends the pods of a data folder's agent, which must not run, and removes their mounts,
// interfaces, nftables table and cgroups. The folder stays: images, logs and the node's identity
// are in it.
func Teardown(ctx context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	if _, err := os.Stat(c.dir()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	held, err := c.lock()
	if err != nil {
		return err
	}
	defer held.Release()
	instance := Instance(c.DataDir)
	var errs []error
	e, err := engine.Open(ctx, engine.Config{Dir: c.dir("runtime"), Runc: c.Runc, Shim: c.Shim, Pause: c.Pause, CgroupParent: "/bramble-" + instance, Logger: c.Logger})
	if err == nil {
		err = e.Teardown(ctx)
	}
	errs = append(errs, err)
	m, err := mesh.Open(ctx, mesh.Options{Instance: instance, Dir: c.dir("mesh"), Logger: c.Logger})
	if err == nil {
		err = errors.Join(m.Teardown(ctx), m.Close())
	}
	errs = append(errs, err, ingress.Open(ingress.Options{Dir: c.dir("ingress"), Logger: c.Logger}).Teardown(), unmountBelow(c.dir()), os.RemoveAll(c.dir("pods")), os.Remove(control.Socket(c.DataDir)))
	for i, err := range errs {
		if errors.Is(err, os.ErrNotExist) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// forget removes what an agent made whose first join was refused: a person has to begin anew. Images that were imported
// meanwhile are kept, and so is what belongs to a node that has joined.
func forget(ctx context.Context, c Config) error {
	if images, err := os.ReadDir(c.dir("runtime", "images")); Joined(c.DataDir) || err == nil && len(images) > 0 {
		return nil
	}
	if err := Teardown(ctx, c); err != nil {
		return fmt.Errorf("remove what the refused join left: %w", err)
	}
	if err := os.RemoveAll(c.dir()); err != nil {
		return fmt.Errorf("remove what the refused join left: %w", err)
	}
	return nil
}

// unmountBelow undoes all mounts below a folder, the innermost first.
func unmountBelow(dir string) error {
	all, err := mountinfo.Self()
	errs := []error{err}
	for _, m := range slices.Backward(all) {
		if !strings.HasPrefix(m.At, dir+"/") {
			continue
		}
		if err := unix.Unmount(m.At, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.At, err))
		}
	}
	return errors.Join(errs...)
}
