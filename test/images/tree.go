package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// made is the time of every file in every image: the same sources give the same digests on any day.
var made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// dropped are folders of Debian packages that no container reads.
var dropped = []string{
	"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/",
	"usr/share/bug/", "usr/share/bash-completion/", "lib/systemd/", "usr/lib/systemd/", "etc/init.d/", "var/log/", "etc/logrotate.d/",
}

// tree is a file system in memory: clean path without a leading slash -> entry.
type tree map[string]entry

type entry struct {
	header tar.Header
	data   []byte
}

func (t tree) put(h tar.Header, data []byte) {
	h.Name = path.Clean(strings.TrimPrefix(h.Name, "/"))
	if h.Name == "." {
		return
	}
	h.Size, h.Format = int64(len(data)), tar.FormatPAX
	h.ModTime, h.AccessTime, h.ChangeTime = made, time.Time{}, time.Time{}
	h.Uname, h.Gname = "", "" // numbers only: names mean nothing in another image
	t[h.Name] = entry{h, data}
}

func (t tree) dir(name string, mode int64) {
	t.put(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (t tree) file(name string, mode int64, data []byte) {
	t.put(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, data)
}

func (t tree) link(name, target string) {
	t.put(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// tarball adds what a tar stream holds (the content of a Debian package).
func (t tree) tarball(r io.Reader) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the package: %w", err)
		}
		if unwanted(h.Name) {
			continue
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return fmt.Errorf("read %s: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Clean(strings.TrimPrefix(h.Linkname, "/"))
		}
		t.put(*h, data)
	}
}

func unwanted(name string) bool {
	name = path.Clean(name) + "/"
	for _, d := range dropped {
		if strings.HasPrefix(name, d) {
			return true
		}
	}
	return false
}

// folder adds the files under dir, all of them root's.
func (t tree) folder(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		if d.IsDir() {
			t.dir(rel, 0o755)
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
		t.file(rel, mode, data)
		return nil
	})
}

// dirs adds folders with an octal mode each.
func (t tree) dirs(dirs map[string]string) error {
	for name, mode := range dirs {
		m, err := strconv.ParseInt(mode, 8, 32)
		if err != nil {
			return fmt.Errorf("mode of %s: %w", name, err)
		}
		t.dir(name, m)
	}
	return nil
}

// bytes is the tree as a tar stream: sorted, parents first.
func (t tree) bytes() ([]byte, error) {
	for name := range t {
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if _, ok := t[d]; !ok {
				t.dir(d, 0o755)
			}
		}
	}
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	// Hard links come after what they link to, which may sort later.
	sort.Slice(names, func(i, j int) bool {
		li, lj := t[names[i]].header.Typeflag == tar.TypeLink, t[names[j]].header.Typeflag == tar.TypeLink
		if li != lj {
			return lj
		}
		return names[i] < names[j]
	})
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	for _, name := range names {
		e := t[name]
		if e.header.Typeflag == tar.TypeDir {
			e.header.Name += "/"
		}
		if err := out.WriteHeader(&e.header); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := out.Write(e.data); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
