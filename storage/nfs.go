package storage

import (
	"context"
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
	addrs, err := net.DefaultResolver.LookupHost(ctx, s.Server)
	if err != nil {
		return "", fmt.Errorf("nfs server %s: %w", s.Server, err)
	}
	flags, data := nfsOptions(addrs[0], s.ReadOnly, options)
	source := s.Server + ":" + s.Path
	err = v.remote.do(ctx, func() error { return unix.Mount(source, v.path, "nfs4", flags, data) })
	if err == unix.ENODEV {
		return "", fmt.Errorf("mount %s: this kernel has no NFS client: load it with `modprobe nfs`", source)
	}
	if err != nil {
		return "", fmt.Errorf("mount %s: %w", source, err)
	}
	return v.path, nil
}

// nfsOptions are mount(2)'s. `hard` is NFS' own promise that a write is not lost when the server is away; whoever wants an error
// instead says `soft`.
func nfsOptions(address string, readOnly bool, options []string) (flags uintptr, data string) {
	flags = unix.MS_NOSUID | unix.MS_NODEV
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	parts := []string{"addr=" + address, "vers=4.2", "hard"}
	for _, o := range options {
		switch {
		case o == "ro":
			flags |= unix.MS_RDONLY
		case o == "rw" || strings.HasPrefix(o, "addr="):
		case o == "noatime":
			flags |= unix.MS_NOATIME
		case strings.HasPrefix(o, "nfsvers=") || strings.HasPrefix(o, "vers="):
			_, version, _ := strings.Cut(o, "=")
			parts[1] = "vers=" + version
		case o == "soft" || o == "softerr" || o == "hard":
			parts[2] = o
		default:
			parts = append(parts, o)
		}
	}
	return flags, strings.Join(parts, ",")
}
