package snapshot

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Staged is a layer that has been unpacked under a temporary name.
type Staged struct {
	DiffID string
	Bytes  int64

	dir     string      // temporary; "" when the layer was there already
	implied []string    // folders that the archive has things in, but no entry for
	links   [][2]string // hard links whose target must be in a layer below: name, target
}

// Unpack reads an uncompressed layer archive to its end. Nothing of it is visible before Commit; Discard drops it.
func (s *Store) Unpack(ctx context.Context, r io.Reader) (*Staged, error) {
	dir := filepath.Join(s.layers(), temporary+random())
	st := &Staged{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "fs"), 0o755); err != nil {
		return nil, fmt.Errorf("unpack layer: %w", err)
	}
	if err := st.unpack(ctx, r); err != nil {
		st.Discard()
		return nil, fmt.Errorf("unpack layer: %w", err)
	}
	return st, nil
}

// Independent says that the layer takes nothing from those below it, so that it can be committed alone.
func (st *Staged) Independent() bool { return len(st.implied) == 0 && len(st.links) == 0 }

// Discard removes a layer if it was not committed.
func (st *Staged) Discard() {
	if st.dir != "" {
		_ = removeAll(st.dir) // the next Open sweeps what remains
	}
}

type unpacker struct {
	root     int // descriptor
	parent   int // descriptor of the folder that was used last, or -1
	parentOf string
	times    []dirTime
	staged   *Staged
}

type dirTime struct {
	name string
	at   time.Time
}

func (st *Staged) unpack(ctx context.Context, r io.Reader) error {
	if err := os.Chmod(filepath.Join(st.dir, "fs"), 0o755); err != nil { // whatever the umask
		return err
	}
	root, err := unix.Open(filepath.Join(st.dir, "fs"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	u := &unpacker{root: root, parent: -1, staged: st}
	defer u.close()
	hash := sha256.New()
	tee := io.TeeReader(r, hash)
	archive := tar.NewReader(tee)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := u.entry(h, archive); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, tee); err != nil { // padding belongs to the digest
		return fmt.Errorf("read archive: %w", err)
	}
	for i := len(u.times) - 1; i >= 0; i-- { // last, because entries in a folder change its time
		t := u.times[i]
		dir, base, err := u.locate(t.name, false)
		if err == nil {
			setTime(dir, base, t.at)
		}
	}
	st.DiffID = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	return nil
}

func (u *unpacker) close() {
	unix.Close(u.root)
	if u.parent >= 0 {
		unix.Close(u.parent)
	}
}

// locate opens the folder that an entry is in, and returns it with the entry's last name. Symbolic links are followed
// as they would be in a container: never out of the root.
func (u *unpacker) locate(name string, create bool) (int, string, error) {
	dir, base := path.Split(name)
	dir = strings.Trim(dir, "/")
	if dir == "" {
		return u.root, base, nil
	}
	if u.parent >= 0 && u.parentOf == dir {
		return u.parent, base, nil
	}
	fd, err := inRoot(u.root, dir)
	if errors.Is(err, unix.ENOENT) && create {
		if err = u.mkdirAll(dir); err == nil {
			fd, err = inRoot(u.root, dir)
		}
	}
	if err != nil {
		return -1, "", err
	}
	u.forget()
	u.parent, u.parentOf = fd, dir
	return fd, base, nil
}

// forget drops the folder that was used last: it may have been replaced.
func (u *unpacker) forget() {
	if u.parent >= 0 {
		unix.Close(u.parent)
	}
	u.parent, u.parentOf = -1, ""
}

func inRoot(root int, dir string) (int, error) {
	return unix.Openat2(root, dir, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// mkdirAll makes folders that the archive only implies. Their attributes are those of the same folder in a layer
// below, which is not known yet; Commit sees to it.
func (u *unpacker) mkdirAll(dir string) error {
	made := ""
	for _, part := range strings.Split(dir, "/") {
		up, err := inRoot(u.root, "./"+made)
		if err != nil {
			return err
		}
		made = path.Join(made, part)
		err = unix.Mkdirat(up, part, 0o755)
		if err == nil {
			err = unix.Fchmodat(up, part, 0o755, 0) // whatever the umask
		}
		unix.Close(up)
		if err == nil {
			u.staged.implied = append(u.staged.implied, made)
		} else if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

const whiteout = ".wh."

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if strings.ContainsRune(name, 0) {
		return errors.New("its name has a NUL byte")
	}
	if name == "" {
		if h.Typeflag == tar.TypeDir {
			return u.attributes(u.root, ".", name, h)
		}
		return nil
	}
	dir, base, err := u.locate(name, true)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteout) {
		return u.white(dir, strings.TrimPrefix(base, whiteout))
	}
	opaque, err := u.clear(dir, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if err := u.create(dir, base, name, h, r); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil
	}
	if opaque && h.Typeflag == tar.TypeDir {
		if err := setOpaque(dir, base); err != nil {
			return err
		}
	}
	return u.attributes(dir, base, name, h)
}

// clear removes what an earlier entry of the same name left; a folder stays if the new entry is one. It reports
// whether it was a whiteout: what lies below must then stay hidden.
func (u *unpacker) clear(dir int, base string, keepDir bool) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if keepDir {
			return false, nil
		}
		u.forget()
		return false, os.RemoveAll(at(dir, base))
	case unix.S_IFCHR:
		return st.Rdev == 0, unix.Unlinkat(dir, base, 0)
	}
	return false, unix.Unlinkat(dir, base, 0)
}

// worthAsking is how large a file must be for the disk to be asked first: an archive of a few bytes may promise a sparse file of
// any size.
const worthAsking = 1 << 20

func (u *unpacker) create(dir int, base, name string, h *tar.Header, r io.Reader) error {
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(dir, base, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	case tar.TypeReg, '\x00':
		if h.Size >= worthAsking {
			if err := Room(u.root, h.Size); err != nil {
				return err
			}
		}
		return writeFile(dir, base, mode, r)
	case tar.TypeSymlink:
		return unix.Symlinkat(h.Linkname, dir, base)
	case tar.TypeLink:
		return u.link(dir, base, name, strings.TrimPrefix(path.Clean("/"+h.Linkname), "/"))
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if h.Typeflag == tar.TypeFifo {
			dev = 0
		} else if h.Typeflag == tar.TypeChar && dev == 0 {
			return errors.New("a device 0:0 would be a whiteout of overlayfs")
		}
		return unix.Mknodat(dir, base, kind|mode, int(dev))
	}
	return fmt.Errorf("its type %q is unknown", h.Typeflag)
}

func writeFile(dir int, base string, mode uint32, r io.Reader) error {
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func (u *unpacker) link(dir int, base, name, target string) error {
	if target == name {
		return errors.New("it is a hard link to itself")
	}
	from, last := u.root, target
	if up, b := path.Split(target); up != "" {
		fd, err := inRoot(u.root, strings.Trim(up, "/"))
		if errors.Is(err, unix.ENOENT) {
			u.staged.links = append(u.staged.links, [2]string{name, target})
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		from, last = fd, b
	}
	err := unix.Linkat(from, last, dir, base, 0)
	if errors.Is(err, unix.ENOENT) { // it must be in a layer below: see Commit
		u.staged.links = append(u.staged.links, [2]string{name, target})
		return nil
	}
	return err
}

// white turns the layer format's whiteouts into overlayfs'.
func (u *unpacker) white(dir int, base string) error {
	if base == ".wh..opq" {
		return setOpaque(dir, ".")
	}
	if base == "" || base == "." || base == ".." || strings.HasPrefix(base, whiteout) {
		return nil // aufs' own files
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return unix.Mknodat(dir, base, unix.S_IFCHR, 0)
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return setOpaque(dir, base)
	}
	return nil // this layer has a file of the name: it hides what is below anyway
}

// at names an entry of an open folder, for calls that take only paths.
func at(dir int, base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, base) }

func setOpaque(dir int, base string) error {
	return unix.Lsetxattr(at(dir, base), "trusted.overlay.opaque", []byte("y"), 0)
}

func (u *unpacker) attributes(dir int, base, name string, h *tar.Header) error {
	if err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink { // after the owner, because a change of it clears set-uid
		if err := unix.Fchmodat(dir, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return err
		}
	}
	for key, value := range h.PAXRecords {
		key, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || strings.HasPrefix(key, "trusted.overlay.") || strings.HasPrefix(key, "user.overlay.") {
			continue
		}
		err := unix.Lsetxattr(at(dir, base), key, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !(errors.Is(err, unix.EPERM) && h.Typeflag == tar.TypeSymlink) {
			return fmt.Errorf("attribute %s: %w", key, err)
		}
	}
	if h.Typeflag == tar.TypeDir {
		u.times = append(u.times, dirTime{name, h.ModTime})
		return nil
	}
	setTime(dir, base, h.ModTime)
	return nil
}

func setTime(dir int, base string, t time.Time) {
	if base == "" {
		base = "."
	}
	ts := unix.NsecToTimespec(t.UnixNano())
	if t.Unix() < 0 || t.Unix() > 1<<33 {
		ts = unix.Timespec{}
	}
	_ = unix.UtimesNanoAt(dir, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
