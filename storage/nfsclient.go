package storage

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/durable"
)

// clientName is what the kernel's client adds to the host name when it tells a server who it is (since Linux 5.3; of each network
// namespace). Boards are often called alike: two `raspberrypi` would each be taken for the other that was rebooted, and lose what
// they have open.
const clientName = "/sys/fs/nfs/net/nfs_client/identifier"

// client is the file that keeps the name: after a reboot, the server must know who claims what was open before.
const client = ".nfs-client"

// nameClient gives the kernel's client a name of its own, unless somebody did before. It only helps: without it mounts work too.
func (v *Volumes) nameClient() {
	v.naming.Do(func() {
		if err := v.setClientName(clientName); err != nil {
			v.log.Warn("the kernel's NFS client has the host name alone: a board of the same name would be taken for this one", "err", err)
		}
	})
}

func (v *Volumes) setClientName(file string) error {
	has, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		// The kernel loads its client when it is asked for that type, and then refuses to mount nothing (with a line in its log).
		_ = unix.Mount("none", v.dir, "nfs4", 0, "")
		has, err = os.ReadFile(file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // an older kernel
	}
	if err != nil {
		return err
	}
	if name := strings.TrimSpace(string(has)); name != "" && name != "(null)" {
		return nil
	}
	path := filepath.Join(v.dir, client)
	name, err := os.ReadFile(path)
	if err != nil || len(name) == 0 {
		name = []byte("bramble-" + rand.Text())
		if err := durable.WriteFile(path, name, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(file, name, 0)
}
