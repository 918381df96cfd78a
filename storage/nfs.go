package storage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// mountNFS mounts an export of an NFS server (version 4, RFC 7530 and 8881) by the kernel's own client.
func mountNFS(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	return v.mountExport(ctx, s.NFS, nil)
}

func (v volume) mountExport(ctx context.Context, s *corev1.NFSVolumeSource, options []string) (string, error) {
	if err := os.MkdirAll(v.path, 0o750); err != nil {
		return "", err
	}
	if there, err := isMountPoint(v.path); err != nil || there {
		return v.path, err
	}
	source, how, err := resolveExport(ctx, s.Server, s.Path, s.ReadOnly, options)
	if err != nil {
		return "", err
	}
	err = v.remote.do(ctx, v.path, func() error { return mountSource(source, v.path, how) })
	if errors.Is(err, errAway) {
		err = fmt.Errorf("mount %s: nfs server %s: %w; it is tried again", source, s.Server, errAway)
	}
	return v.path, err
}

// exportOptions are mount(2)'s.
type exportOptions struct {
	flags    uintptr
	data     string // but for the version
	versions []string
}

// resolveExport finds what to mount. Names are looked up here, because the kernel knows addresses alone.
func resolveExport(ctx context.Context, server, path string, readOnly bool, options []string) (source string, o exportOptions, err error) {
	ctx, cancel := context.WithTimeout(ctx, remoteDeadline)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupHost(ctx, server)
	if err != nil {
		return "", o, fmt.Errorf("nfs server %s: %w", server, err)
	}
	return server + ":" + path, nfsOptions(addrs[0], readOnly, options), nil
}

// mountSource mounts an export by the newest version that the server has.
func mountSource(source, at string, o exportOptions) error {
	var err error
	for _, version := range o.versions {
		err = unix.Mount(source, at, "nfs4", o.flags, o.data+",vers="+version)
		if err != unix.EPROTONOSUPPORT && err != unix.EINVAL {
			break
		}
	}
	switch err {
	case nil:
		return nil
	case unix.ENODEV:
		return fmt.Errorf("mount %s: this kernel has no NFS client: load it with `modprobe nfs`", source)
	case unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNREFUSED, unix.EHOSTDOWN:
		return fmt.Errorf("mount %s: %w (%w)", source, errAway, err)
	case unix.EPROTONOSUPPORT:
		return fmt.Errorf("mount %s: the server does not speak NFS version 4", source)
	}
	return fmt.Errorf("mount %s: %w", source, err)
}

// nfsOptions reads what mount.nfs would. `hard` is NFS' own promise that a write is not lost when the server is away; whoever
// wants an error instead says `soft`.
func nfsOptions(address string, readOnly bool, options []string) exportOptions {
	o := exportOptions{flags: unix.MS_NOSUID | unix.MS_NODEV, versions: []string{"4.2", "4.1", "4.0"}}
	if readOnly {
		o.flags |= unix.MS_RDONLY
	}
	parts := []string{"addr=" + address, "hard"}
	for _, option := range options {
		switch {
		case option == "ro":
			o.flags |= unix.MS_RDONLY
		case option == "rw" || strings.HasPrefix(option, "addr="):
		case option == "noatime":
			o.flags |= unix.MS_NOATIME
		case option == "noexec":
			o.flags |= unix.MS_NOEXEC
		case strings.HasPrefix(option, "nfsvers=") || strings.HasPrefix(option, "vers="):
			_, version, _ := strings.Cut(option, "=")
			if version == "4" {
				continue
			}
			o.versions = []string{version}
		case option == "soft" || option == "softerr" || option == "hard":
			parts[1] = option
		default:
			parts = append(parts, option)
		}
	}
	o.data = strings.Join(parts, ",")
	return o
}
