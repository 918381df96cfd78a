// Package snapshot keeps unpacked image layers and mounts them, with overlayfs, as the root file systems of containers.
//
// The invariant: a folder in layers/ is whole. A layer is unpacked under a temporary name, brought to the disk, and
// renamed; what a crash leaves under a temporary name is swept by the next Open. A layer is found by the digest of its
// uncompressed archive, whichever image it came with, so that images share it.
//
//	staged, err := store.Unpack(ctx, tarStream)
//	names, err := store.Commit(ctx, []snapshot.Part{{Staged: staged}})
//	root, err := store.Mount(containerID, names)
package snapshot

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Store is a folder of layers and snapshots.
type Store struct {
	dir string
	mu  sync.Mutex // committing and removing
	// volatile says whether the kernel knows the overlayfs option (Linux 5.10).
	volatile bool
}

const temporary = "tmp-"

// Open opens the store, and removes what an earlier process left half done.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, volatile: true}
	for _, d := range []string{s.layers(), s.snapshots(), filepath.Join(dir, "empty")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open layers: %w", err)
		}
	}
	entries, err := os.ReadDir(s.layers())
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			if err := removeAll(filepath.Join(s.layers(), e.Name())); err != nil {
				return nil, fmt.Errorf("sweep half-done layer: %w", err)
			}
		}
	}
	return s, nil
}

func (s *Store) layers() string    { return filepath.Join(s.dir, "layers") }
func (s *Store) snapshots() string { return filepath.Join(s.dir, "snapshots") }

// Layer is what is kept beside a layer's files.
type Layer struct {
	Name    string   `json:"name"`
	DiffID  string   `json:"diffID"`
	Parents []string `json:"parents,omitempty"` // the layers that this one took attributes from; usually none
	Entries int64    `json:"entries"`
	Bytes   int64    `json:"bytes"` // of regular files

	Added time.Time `json:"-"`
}

func layerName(diffID string) string {
	_, digest, _ := strings.Cut(diffID, ":")
	return digest[:min(24, len(digest))]
}

// Find looks for a layer by the digest of its archive, above the layers with these names.
func (s *Store) Find(diffID string, parents []string) (Layer, bool) {
	if _, digest, ok := strings.Cut(diffID, ":"); !ok || len(digest) < 24 {
		return Layer{}, false
	}
	l, err := s.read(layerName(diffID))
	if err != nil || l.DiffID != diffID {
		l, err = s.read(variantName(diffID, parents))
	}
	return l, err == nil && l.DiffID == diffID
}

func (s *Store) read(name string) (Layer, error) {
	var l Layer
	b, err := os.ReadFile(filepath.Join(s.layers(), name, "layer.json"))
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return l, fmt.Errorf("read layer %s: %w", name, err)
	}
	return l, nil
}

// Verify compares a layer with what was recorded when it was unpacked: the number of its files and their sizes. It
// reads no content, so that it is cheap enough for every start of a board.
func (s *Store) Verify(name string) error {
	l, err := s.read(name)
	if err != nil {
		return fmt.Errorf("verify layer %s: %w", name, err)
	}
	entries, bytes, err := measure(filepath.Join(s.layers(), name, "fs"))
	if err != nil {
		return fmt.Errorf("verify layer %s: %w", name, err)
	}
	if entries != l.Entries || bytes != l.Bytes {
		return fmt.Errorf("verify layer %s: it has %d files of %d bytes, but %d of %d were unpacked", name, entries, bytes, l.Entries, l.Bytes)
	}
	return nil
}

func measure(dir string) (entries, bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return entries, bytes, err
}

// Layers lists what is there.
func (s *Store) Layers() ([]Layer, error) {
	entries, err := os.ReadDir(s.layers())
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var all []Layer
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			continue
		}
		l, err := s.read(e.Name())
		if err != nil {
			l = Layer{} // not usable, but it takes room: whoever collects garbage should see it
		}
		l.Name = e.Name()
		if info, err := e.Info(); err == nil {
			l.Added = info.ModTime()
		}
		all = append(all, l)
	}
	return all, nil
}

// RemoveLayer removes a layer; nothing may be mounted on it.
func (s *Store) RemoveLayer(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := filepath.Join(s.layers(), temporary+random())
	if err := os.Rename(filepath.Join(s.layers(), name), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove layer %s: %w", name, err)
	}
	if err := removeAll(gone); err != nil {
		return fmt.Errorf("remove layer %s: %w", name, err)
	}
	return nil
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// removeAll is os.RemoveAll that also removes what somebody marked immutable.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			clearFlags(p)
		}
		return nil
	})
	return os.RemoveAll(path)
}

func clearFlags(path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	const immutable, appendOnly = 0x10, 0x20
	if flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); err == nil && flags&(immutable|appendOnly) != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^(immutable|appendOnly))
	}
}
