package shortage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/seam"
)

// Amount is what something takes of a disk.
type Amount struct{ Bytes, Inodes int64 }

func (a Amount) plus(b Amount) Amount { return Amount{a.Bytes + b.Bytes, a.Inodes + b.Inodes} }

// in is the amount in the unit of a signal.
func (a Amount) in(s Signal) int64 {
	if s.resource() == inodes {
		return a.Inodes
	}
	return a.Bytes
}

// ContainerUse is what one container uses.
type ContainerUse struct {
	Name          string
	Memory        int64
	Written, Logs Amount // outside volumes; its logs
}

// Use is what a pod uses.
type Use struct {
	Pod        *corev1.Pod
	Counted    bool // Memory and Pids are known
	Memory     int64
	Pids       int64
	Containers []ContainerUse
	Volumes    map[string]Amount // emptyDirs on the disk
}

// disk is what the pod takes of the file system that a signal is about.
func (u Use) disk(s Signal, split bool) Amount {
	var sum Amount
	image := s == ImageFsAvailable || s == ImageFsInodes
	for _, c := range u.Containers {
		if !split || image {
			sum = sum.plus(c.Written)
		}
		if !split || !image {
			sum = sum.plus(c.Logs)
		}
	}
	if !split || !image {
		for _, v := range u.Volumes {
			sum = sum.plus(v)
		}
	}
	return sum
}

// Folders are where the things of a pod lie that are its own to use up.
type Folders struct {
	Written map[string]string // what containers write outside volumes, by container name
	Logs    map[string]string
	Volumes map[string]string // emptyDirs on the disk
}

// count adds what the kernel counted for a pod.
func (u *Use) count(p seam.PodStats) {
	u.Counted, u.Memory, u.Pids = true, int64(p.MemoryWorkingSet), int64(p.Pids)
	for _, c := range p.Containers {
		u.container(c.Name).Memory = int64(c.MemoryWorkingSet)
	}
}

func (u *Use) container(name string) *ContainerUse {
	for i := range u.Containers {
		if u.Containers[i].Name == name {
			return &u.Containers[i]
		}
	}
	u.Containers = append(u.Containers, ContainerUse{Name: name})
	return &u.Containers[len(u.Containers)-1]
}

// measure walks a pod's folders. It reads directories and no content; when ctx is done, what was found so far is less than there is.
func (u *Use) measure(ctx context.Context, f Folders) {
	for name, dir := range f.Written {
		u.container(name).Written = size(ctx, dir)
	}
	for name, dir := range f.Logs {
		u.container(name).Logs = size(ctx, dir)
	}
	u.Volumes = map[string]Amount{}
	for name, dir := range f.Volumes {
		u.Volumes[name] = size(ctx, dir)
	}
}

// size is what a folder takes of its file system, whatever else is mounted in it. The container that owns it may change it meanwhile, and
// may have put symbolic links anywhere: none is followed.
func size(ctx context.Context, dir string) Amount {
	var sum Amount
	root, err := os.OpenRoot(dir)
	if err != nil {
		return sum
	}
	defer root.Close()
	var device uint64
	linked := map[uint64]bool{}
	_ = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // it went while it was looked at
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.ErrUnsupported
		}
		if device == 0 {
			device = uint64(s.Dev)
		}
		if uint64(s.Dev) != device {
			return fs.SkipDir
		}
		if s.Nlink > 1 && !d.IsDir() {
			if linked[s.Ino] {
				return nil
			}
			linked[s.Ino] = true
		}
		sum.Bytes += s.Blocks * 512
		sum.Inodes++
		return nil
	})
	return sum
}
