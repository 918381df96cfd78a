package container

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Device is a device of the host that the container may use.
type Device struct {
	Host, Container string // paths
	Permissions     string // of r, w, m
}

// devices gives the container its device nodes, and its cgroup the right to use them and no others. The nodes that
// every container has (/dev/null and so on) are runc's.
func devices(in Input, r *specs.LinuxResources) ([]specs.LinuxDevice, error) {
	if privileged(in) {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return in.Host.Devices, nil
	}
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	var list []specs.LinuxDevice
	for _, d := range in.Devices {
		found, err := deviceNodes(d)
		if err != nil {
			return nil, configError("container %q: device %s: %w", in.Container.Name, d.Host, err)
		}
		for _, n := range found {
			list = append(list, n)
			major, minor := n.Major, n.Minor
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &major, Minor: &minor, Access: d.Permissions})
		}
	}
	return list, nil
}

// deviceNodes is a device, or all devices of a folder such as /dev/snd.
func deviceNodes(d Device) ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	real, err := filepath.EvalSymlinks(d.Host)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(real, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n, ok := node(path); ok {
			n.Path = filepath.Join(d.Container, strings.TrimPrefix(path, real))
			list = append(list, n)
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		err = &fs.PathError{Op: "use", Path: d.Host, Err: unix.ENODEV}
	}
	return list, err
}

func node(path string) (specs.LinuxDevice, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, false
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return specs.LinuxDevice{}, false
	}
	mode, uid, gid := os.FileMode(st.Mode&0o7777), st.Uid, st.Gid
	return specs.LinuxDevice{
		Path: path, Type: kind, Major: int64(unix.Major(uint64(st.Rdev))), Minor: int64(unix.Minor(uint64(st.Rdev))), FileMode: &mode, UID: &uid, GID: &gid,
	}, true
}

// hostDevices lists every device of the host, for privileged containers.
func hostDevices() []specs.LinuxDevice {
	var list []specs.LinuxDevice
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		switch path {
		case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.udev", "/dev/hugepages":
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil // for a link it would skip everything beside it
		case "/dev/console", "/dev/ptmx", "/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom": // runc's
			return nil
		}
		if n, ok := node(path); ok {
			list = append(list, n)
		}
		return nil
	})
	return list
}
