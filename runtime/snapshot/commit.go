package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/durable"
)

// Part is one layer of an image, from the bottom up: one that is there (Name), or one that has just been unpacked.
type Part struct {
	Name   string
	Staged *Staged
}

// Commit makes unpacked layers part of the store and returns the names of all layers of the image. Everything is on
// the disk when it returns.
func (s *Store) Commit(ctx context.Context, parts []Part) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(parts))
	dirs := make([]string, 0, len(parts)) // where the layers' files are now
	var moves [][2]string
	for _, p := range parts {
		if p.Staged == nil {
			names, dirs = append(names, p.Name), append(dirs, filepath.Join(s.layers(), p.Name, "fs"))
			continue
		}
		if i := slices.IndexFunc(parts[:len(names)], func(q Part) bool { return q.Staged == p.Staged }); i >= 0 {
			names, dirs = append(names, names[i]), append(dirs, dirs[i]) // an image may have a layer twice
			continue
		}
		name, err := p.Staged.finish(names, dirs)
		if err != nil {
			return nil, fmt.Errorf("commit layer %s: %w", p.Staged.DiffID, err)
		}
		names, dirs = append(names, name), append(dirs, filepath.Join(p.Staged.dir, "fs"))
		moves = append(moves, [2]string{p.Staged.dir, filepath.Join(s.layers(), name)})
	}
	if len(moves) == 0 {
		return names, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := syncFS(s.layers()); err != nil {
		return nil, fmt.Errorf("commit layers: %w", err)
	}
	for _, m := range moves {
		if err := os.Rename(m[0], m[1]); err != nil {
			if _, statErr := os.Stat(filepath.Join(m[1], "layer.json")); statErr != nil {
				return nil, fmt.Errorf("commit layers: %w", err)
			}
			_ = removeAll(m[0]) // somebody else brought the same layer
		}
	}
	if err := durable.SyncDir(s.layers()); err != nil {
		return nil, fmt.Errorf("commit layers: %w", err)
	}
	return names, nil
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// finish gives a layer what it takes from those below, writes its record, and returns its name.
func (st *Staged) finish(names, below []string) (string, error) {
	l := Layer{Name: layerName(st.DiffID), DiffID: st.DiffID}
	took, err := st.inherit(below)
	if err != nil {
		return "", err
	}
	if took {
		l.Name, l.Parents = variantName(st.DiffID, names), names
	}
	if l.Entries, l.Bytes, err = measure(filepath.Join(st.dir, "fs")); err != nil {
		return "", err
	}
	st.Bytes = l.Bytes
	b, err := json.Marshal(l)
	if err != nil {
		return "", err
	}
	return l.Name, os.WriteFile(filepath.Join(st.dir, "layer.json"), b, 0o600)
}

// variantName names a layer that depends on those below it.
func variantName(diffID string, parents []string) string {
	sum := sha256.Sum256([]byte(diffID + "\n" + strings.Join(parents, "\n")))
	return "v" + hex.EncodeToString(sum[:])[:23]
}

// inherit copies the attributes of folders that the archive only implied, and files that it only linked to.
func (st *Staged) inherit(below []string) (took bool, err error) {
	mine := filepath.Join(st.dir, "fs")
	for _, dir := range st.implied {
		from, ok := lookup(below, dir)
		if !ok || !isDir(from) {
			continue
		}
		to, ok := lookup([]string{mine}, dir)
		if !ok {
			continue
		}
		changed, err := copyAttributes(from, to)
		if err != nil {
			return false, err
		}
		took = took || changed
	}
	for _, l := range st.links {
		from, ok := lookup(append(below[:len(below):len(below)], mine), l[1])
		if !ok {
			return false, fmt.Errorf("%s is a hard link to %s, which no layer has", l[0], l[1])
		}
		up, ok := lookup([]string{mine}, path.Dir(l[0]))
		if !ok {
			return false, fmt.Errorf("%s: its folder is not there", l[0])
		}
		to := filepath.Join(up, path.Base(l[0]))
		if strings.HasPrefix(from, mine+"/") {
			err = os.Link(from, to)
		} else {
			err = copyFile(from, to)
			took = true
		}
		if err != nil {
			return false, err
		}
	}
	return took, nil
}

// lookup finds the topmost layer that has a name; a whiteout is the end of the search. Links are not followed out of
// a layer, and a name that leads through one is not found.
func lookup(layers []string, name string) (string, bool) {
	for i := len(layers) - 1; i >= 0; i-- {
		root, err := unix.Open(layers[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", false
		}
		fd, err := unix.Openat2(root, path.Clean("./"+name), &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
		})
		unix.Close(root)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err != nil || (st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0) {
			return "", false
		}
		return filepath.Join(layers[i], name), true
	}
	return "", false
}

func isDir(name string) bool {
	st, err := os.Lstat(name)
	return err == nil && st.IsDir()
}

func copyAttributes(from, to string) (changed bool, err error) {
	var a, b unix.Stat_t
	if err := errors.Join(unix.Lstat(from, &a), unix.Lstat(to, &b)); err != nil {
		return false, err
	}
	if a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid {
		return false, nil
	}
	return true, errors.Join(unix.Lchown(to, int(a.Uid), int(a.Gid)), unix.Chmod(to, a.Mode&0o7777))
}

func copyFile(from, to string) error {
	st, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s: a hard link to what is no file, in another layer", from)
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	_, err = copyAttributes(from, to)
	return err
}
