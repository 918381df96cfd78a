package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// mountNFS mounts an export of an NFS server (version 4, RFC 7530 and 8881) by the kernel's own client.
func mountNFS(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	return v.mountExport(ctx, s.NFS, nil)
}

func (v volume) mountExport(ctx context.Context, s *corev1.NFSVolumeSource, options []string) (string, error) {
	// Before anything looks at the folder: a mount from before a restart, whose server is away, would hang it.
	if there, err := isMountPoint(v.path); err != nil || there {
		v.remote.poke()
		return v.path, err
	}
	if err := os.MkdirAll(v.path, 0o750); err != nil {
		return "", err
	}
	e, err := findExport(ctx, s.Server, s.Path, s.ReadOnly, options)
	if err != nil {
		return "", err
	}
	err = v.remote.do(ctx, s.Server, mounting+v.path, func() error {
		if there, err := isMountPoint(v.path); err != nil || there {
			return err // by the call before, which nobody waited for any more
		}
		v.nameClient()
		return e.mount(v.path)
	})
	v.remote.poke()
	return v.path, e.explain(err)
}

// export is what mount(2) gets to see.
type export struct {
	source   string
	server   string
	flags    uintptr
	data     string // but for the version
	versions []string
}

// findExport finds a server that answers. Names are looked up here, because the kernel knows addresses alone.
func findExport(ctx context.Context, server, path string, readOnly bool, options []string) (export, error) {
	if ip := strings.Trim(server, "[]"); strings.Contains(ip, ":") {
		server = "[" + ip + "]"
	}
	source := server + ":" + path
	address, err := findServer(ctx, server, portOf(options))
	if err != nil {
		return export{}, tried(source, err)
	}
	e := nfsOptions(address, readOnly, options)
	e.source, e.server = source, server
	return e, nil
}

// tried says of a mount that it will be tried again. (It always is; where only waiting helps, that is said.)
func tried(source string, err error) error {
	again := ""
	if errors.Is(err, errAway) {
		again = "; it is tried again"
	}
	return fmt.Errorf("mount %s: %w%s", source, err, again)
}

func portOf(options []string) string {
	for _, o := range options {
		if port, ok := strings.CutPrefix(o, "port="); ok && port != "0" {
			return port
		}
	}
	return nfsPort
}

// mount mounts the export by the newest version that the server has.
func (e export) mount(at string) error {
	var err error
	for _, version := range e.versions {
		err = unix.Mount(e.source, at, "nfs4", e.flags, e.data+",vers="+version)
		if err != unix.EPROTONOSUPPORT && err != unix.EINVAL {
			break
		}
	}
	return err
}

// explain says what an error of mount(2) means here, and what to look at.
func (e export) explain(err error) error {
	why := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("mount %s: this kernel has no NFS client: load it with `modprobe nfs`", e.source)
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("mount %s: the server does not speak NFS version %s", e.source, strings.Join(e.versions, " or "))
	case errors.Is(err, errAway):
	case slices.Contains([]error{unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNREFUSED, unix.EHOSTDOWN}, err):
		err = fmt.Errorf("nfs server %s: %w (%w)", e.server, errAway, err)
	case errors.Is(err, unix.ENOENT):
		why = ": the server exports no such folder to this node: see /etc/exports there"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		why = ": the server does not let this node mount it: see /etc/exports there"
	case errors.Is(err, unix.EINVAL):
		why = ": this node's kernel does not know all of the mount options " + e.data
	}
	return tried(e.source, fmt.Errorf("%w%s", err, why))
}

// nfsOptions reads what mount.nfs would. `hard` is NFS' own promise that a write is not lost when the server is away; whoever
// wants an error instead says `soft`.
func nfsOptions(address string, readOnly bool, options []string) export {
	e := export{flags: unix.MS_NOSUID | unix.MS_NODEV, versions: []string{"4.2", "4.1", "4.0"}}
	if readOnly {
		e.flags |= unix.MS_RDONLY
	}
	parts := []string{"addr=" + address, "hard"}
	for _, option := range options {
		switch {
		case option == "ro":
			e.flags |= unix.MS_RDONLY
		case option == "rw" || strings.HasPrefix(option, "addr="):
		case option == "noatime":
			e.flags |= unix.MS_NOATIME
		case option == "noexec":
			e.flags |= unix.MS_NOEXEC
		case strings.HasPrefix(option, "nfsvers=") || strings.HasPrefix(option, "vers="):
			_, version, _ := strings.Cut(option, "=")
			if version == "4" {
				continue
			}
			e.versions = []string{version}
		case option == "soft" || option == "softerr" || option == "hard":
			parts[1] = option
		default:
			parts = append(parts, option)
		}
	}
	e.data = strings.Join(parts, ",")
	return e
}
