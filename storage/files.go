package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"
)

// file is one file of living content.
type file struct {
	data []byte
	mode int32
	user *int64 // owner; nil: root
}

// files are a volume's content by path.
type files map[string]file

// The names that kubelet uses, on which programs that watch their configuration rely: every visible file is a link through
// ..data, which is replaced in one step.
const (
	dataLink = "..data"
	nextLink = "..data_tmp"
	version  = "..20" // folders of versions begin with the year
)

// show makes the volume's folder hold exactly these files, all of them changed at one moment.
func (v volume) show(content files) (string, error) {
	if err := mountTmpfs(v.path, 0); err != nil {
		return "", err
	}
	content, err := content.clean()
	if err != nil {
		return "", err
	}
	current, _ := os.Readlink(filepath.Join(v.path, dataLink))
	if current != "" && v.same(filepath.Join(v.path, current), content) {
		return v.path, nil
	}
	return v.path, v.replace(current, content)
}

// clean has the files by clean paths: the API takes "./x", and what is seen of it is x.
func (f files) clean() (files, error) {
	out := files{}
	for _, path := range slices.Sorted(maps.Keys(f)) { // of two that are one, the same each time
		one := f[path]
		if err := errors.Join(checkPath(path), checkPath(filepath.Clean(path))); err != nil {
			return nil, err
		}
		out[filepath.Clean(path)] = one
	}
	return out, nil
}

// checkPath refuses what leads out of the volume or hides a version. The API refuses most of it first.
func checkPath(path string) error {
	if path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "..") {
		return fmt.Errorf("invalid path %q: must be relative, and must not start with \"..\"", path)
	}
	for _, part := range strings.Split(path, "/") {
		if part == ".." {
			return fmt.Errorf("invalid path %q: must not contain \"..\"", path)
		}
	}
	return nil
}

func (v volume) replace(current string, content files) error {
	dir, err := os.MkdirTemp(v.path, versionPattern())
	if err != nil {
		return err
	}
	if err := v.write(dir, content); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	next := filepath.Join(v.path, nextLink)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(dir), next); err != nil {
		return err
	}
	// Links of new names first: they lead nowhere until ..data has them.
	if err := v.link(content); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(v.path, dataLink)); err != nil {
		return err
	}
	return v.tidy(filepath.Base(dir), content)
}

// write fills a version's folder.
func (v volume) write(dir string, content files) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for path, f := range content {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.data, 0o600); err != nil {
			return err
		}
		if f.user != nil {
			if err := os.Chown(full, int(*f.user), -1); err != nil {
				return err
			}
		}
		if err := os.Chmod(full, fs.FileMode(f.mode)&fs.ModePerm); err != nil {
			return err
		}
	}
	return v.setGroup(dir, groupReads)
}

// tops are the first parts of the paths: what a reader of the volume sees.
func tops(content files) map[string]bool {
	out := map[string]bool{}
	for path := range content {
		top, _, _ := strings.Cut(path, "/")
		out[top] = true
	}
	return out
}

func (v volume) link(content files) error {
	for top := range tops(content) {
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(v.path, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// tidy removes the links of names that are gone, and older versions.
func (v volume) tidy(present string, content files) error {
	entries, err := os.ReadDir(v.path)
	if err != nil {
		return err
	}
	wanted := tops(content)
	var errs []error
	for _, e := range entries {
		switch name := e.Name(); {
		case name == dataLink || name == present || wanted[name]:
		case strings.HasPrefix(name, version) || e.Type()&fs.ModeSymlink != 0:
			errs = append(errs, os.RemoveAll(filepath.Join(v.path, name)))
		}
	}
	return errors.Join(errs...)
}

// same tells whether a version's folder holds just this content.
func (v volume) same(dir string, content files) bool {
	var have []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			have = append(have, rel)
		}
		return err
	})
	want := make([]string, 0, len(content))
	for path := range content {
		want = append(want, path)
	}
	sort.Strings(have)
	sort.Strings(want)
	if err != nil || strings.Join(have, "\x00") != strings.Join(want, "\x00") {
		return false
	}
	for path, f := range content {
		if !sameFile(filepath.Join(dir, path), f) {
			return false
		}
	}
	return true
}

// sameFile compares content and owner. The mode is set with the content and never changes alone: a volume's definition is
// immutable.
func sameFile(path string, f file) bool {
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(data, f.data) {
		return false
	}
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && (f.user == nil || int64(s.Uid) == *f.user)
}

// versionPattern names a version's folder by the time at which it was made, as kubelet does.
func versionPattern() string { return time.Now().UTC().Format("..2006_01_02_15_04_05.*") }
