package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/runtime/testimage"
)

func openStore(t testing.TB) *Store {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("layers need root")
	}
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func file(name, body string, mode int64) testimage.File {
	return testimage.File{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, ModTime: time.Unix(1600000000, 0)}, Body: body}
}

func folder(name string, mode int64, uid int) testimage.File {
	return testimage.File{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, Uid: uid, ModTime: time.Unix(1600000000, 0)}}
}

func link(kind byte, name, to string) testimage.File {
	return testimage.File{Header: tar.Header{Name: name, Typeflag: kind, Linkname: to, Mode: 0o777}}
}

func unpack(t testing.TB, s *Store, files ...testimage.File) *Staged {
	t.Helper()
	b, err := testimage.Archive(files)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Unpack(t.Context(), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// tree prints what a folder has, a line each.
func tree(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root+"/")
		line := fmt.Sprintf("%s %s %d", name, d.Type().String()[:1], st.Uid)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			line += " -> " + to
		case d.Type().IsRegular():
			b, _ := os.ReadFile(path)
			line += fmt.Sprintf(" %04o %q links=%d", st.Mode&0o7777, b, st.Nlink)
		case d.IsDir():
			line += fmt.Sprintf(" %04o", st.Mode&0o7777)
		default:
			line += fmt.Sprintf(" %d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// TestLayers mounts layers on one another and looks at what a container would see.
func TestLayers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		layers [][]testimage.File
		want   string
	}{
		{"kinds", [][]testimage.File{{
			folder("d/", 0o1777, 0), file("d/f", "x", 0o4755), link(tar.TypeLink, "h", "d/f"), link(tar.TypeSymlink, "s", "/d/f"),
			{Header: tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600}}, {Header: tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666}},
		}}, "d d 0 1777\nd/f - 0 4755 \"x\" links=2\nfifo p 0 0:0\nh - 0 4755 \"x\" links=2\nnull D 0 1:3\ns L 0 -> /d/f"},
		{"whiteout", [][]testimage.File{{folder("d/", 0o755, 0), file("d/a", "1", 0o644), file("d/b", "1", 0o644)}, {folder("d/", 0o755, 0), file("d/.wh.a", "", 0)}},
			"d d 0 0755\nd/b - 0 0644 \"1\" links=1"},
		{"whiteout of a folder", [][]testimage.File{{folder("d/", 0o755, 0), file("d/a", "1", 0o644)}, {file(".wh.d", "", 0), file("x", "", 0o644)}}, "x - 0 0644 \"\" links=1"},
		{"opaque", [][]testimage.File{{folder("d/", 0o755, 0), file("d/a", "1", 0o644)}, {folder("d/", 0o700, 5), file("d/.wh..wh..opq", "", 0), file("d/n", "2", 0o644)}},
			"d d 5 0700\nd/n - 0 0644 \"2\" links=1"},
		{"replaced folder", [][]testimage.File{{folder("d/", 0o755, 0), file("d/a", "1", 0o644)}, {file(".wh.d", "", 0), folder("d/", 0o755, 0), file("d/n", "2", 0o644)}},
			"d d 0 0755\nd/n - 0 0644 \"2\" links=1"},
		{"folder by file", [][]testimage.File{{folder("d/", 0o755, 0), file("d/a", "1", 0o644)}, {file("d", "file", 0o644)}}, "d - 0 0644 \"file\" links=1"},
		{"implied folder keeps its owner", [][]testimage.File{{folder("home/", 0o750, 7)}, {file("home/f", "2", 0o644)}}, "home d 7 0750\nhome/f - 0 0644 \"2\" links=1"},
		{"hard link across layers", [][]testimage.File{{file("a", "1", 0o600)}, {link(tar.TypeLink, "b", "a")}}, "a - 0 0600 \"1\" links=1\nb - 0 0600 \"1\" links=1"},
		{"through a link", [][]testimage.File{{folder("usr/", 0o755, 0), folder("usr/lib/", 0o755, 0), link(tar.TypeSymlink, "lib", "usr/lib"), file("lib/x", "1", 0o644), link(tar.TypeSymlink, "abs", "/usr/lib"), file("abs/y", "2", 0o644)}},
			"abs L 0 -> /usr/lib\nlib L 0 -> usr/lib\nusr d 0 0755\nusr/lib d 0 0755\nusr/lib/x - 0 0644 \"1\" links=1\nusr/lib/y - 0 0644 \"2\" links=1"},
		{"twice", [][]testimage.File{{file("a", "1", 0o644), file("a", "2", 0o600)}}, "a - 0 0600 \"2\" links=1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t)
			var parts []Part
			for _, l := range tt.layers {
				parts = append(parts, Part{Staged: unpack(t, s, l...)})
			}
			names, err := s.Commit(t.Context(), parts)
			if err != nil {
				t.Fatal(err)
			}
			root, err := s.Mount("c", names)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Unmount("c")
			if got := tree(t, root); got != tt.want {
				t.Errorf("seen:\n%s\nwanted:\n%s", got, tt.want)
			}
			for _, n := range names {
				if err := s.Verify(n); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestEscape unpacks archives that try to write outside.
func TestEscape(t *testing.T) {
	for name, files := range map[string][]testimage.File{
		"dots":          {file("../../../escaped", "x", 0o644)},
		"absolute":      {file("/escaped", "x", 0o644)},
		"link":          {link(tar.TypeSymlink, "l", "../../.."), file("l/escaped", "x", 0o644)},
		"absolute link": {link(tar.TypeSymlink, "l", "/"), file("l/escaped", "x", 0o644)},
		"hard link":     {link(tar.TypeLink, "l", "../../../outside"), file("l", "x", 0o644)},
		"link to file":  {link(tar.TypeSymlink, "l", "../../../outside"), file("l", "x", 0o644)},
		"proc":          {link(tar.TypeSymlink, "l", "/proc/self/cwd"), file("l/escaped", "x", 0o644)},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			outside := filepath.Join(s.dir, "outside")
			if err := os.WriteFile(outside, []byte("safe"), 0o600); err != nil {
				t.Fatal(err)
			}
			b, _ := testimage.Archive(files)
			st, err := s.Unpack(t.Context(), bytes.NewReader(b))
			if err == nil {
				defer st.Discard()
			}
			for _, dir := range []string{"/", s.dir, filepath.Dir(s.dir), s.layers(), "."} {
				if _, err := os.Lstat(filepath.Join(dir, "escaped")); err == nil {
					t.Errorf("it escaped to %s", dir)
				}
			}
			if got, _ := os.ReadFile(outside); string(got) != "safe" {
				t.Errorf("the file outside is %q", got)
			}
		})
	}
}

func TestAttributes(t *testing.T) {
	s := openStore(t)
	f := file("f", "x", 0o755)
	f.Uid, f.Gid = 12, 34
	f.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	f.Format = tar.FormatPAX
	names, err := s.Commit(t.Context(), []Part{{Staged: unpack(t, s, folder("d/", 0o755, 1), f)}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.layers(), names[0], "fs", "f")
	buf := make([]byte, 64)
	if n, err := unix.Lgetxattr(path, "user.note", buf); err != nil || string(buf[:n]) != "kept" {
		t.Errorf("attribute: %v %q", err, buf[:max(n, 0)])
	}
	if n, err := unix.Lgetxattr(path, "security.capability", buf); err != nil || n != 20 {
		t.Errorf("capability: %v, %d bytes", err, n)
	}
	if _, err := unix.Lgetxattr(path, "trusted.overlay.opaque", buf); err == nil {
		t.Error("an archive may set what overlayfs believes")
	}
	info, err := os.Stat(path)
	if err != nil || !info.ModTime().Equal(time.Unix(1600000000, 0)) {
		t.Errorf("time %v, %v", info.ModTime(), err)
	}
	if dir, err := os.Stat(filepath.Join(filepath.Dir(path), "d")); err != nil || !dir.ModTime().Equal(time.Unix(1600000000, 0)) {
		t.Errorf("a folder's time %v, %v", dir.ModTime(), err)
	}
}

// TestManyLayers mounts as many layers as an image may have.
func TestManyLayers(t *testing.T) {
	s := openStore(t)
	var parts []Part
	for i := range 127 {
		parts = append(parts, Part{Staged: unpack(t, s, file(fmt.Sprintf("f%d", i), "x", 0o644))})
	}
	names, err := s.Commit(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.Mount("many", names)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Unmount("many")
	if entries, _ := os.ReadDir(root); len(entries) != 127 {
		t.Errorf("%d files", len(entries))
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(mounts), " "+root+" ") {
		t.Errorf("not mounted: %v", err)
	}
}

// TestInterrupted opens a store in which an unpacking was cut off by a crash.
func TestInterrupted(t *testing.T) {
	s := openStore(t)
	unpack(t, s, file("f", "x", 0o644)) // and neither committed nor discarded
	b, _ := testimage.Archive([]testimage.File{file("f", strings.Repeat("x", 10000), 0o644)})
	if _, err := s.Unpack(t.Context(), bytes.NewReader(b[:5000])); err == nil {
		t.Error("half an archive was unpacked")
	}
	again, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(again.layers()); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestImmutable(t *testing.T) {
	s := openStore(t)
	names, err := s.Commit(t.Context(), []Part{{Staged: unpack(t, s, file("f", "x", 0o644))}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(s.layers(), names[0], "fs", "f"))
	if err != nil {
		t.Fatal(err)
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x10)
	f.Close()
	if err != nil {
		t.Skipf("no immutable files here: %v", err)
	}
	if err := s.RemoveLayer(names[0]); err != nil {
		t.Error(err)
	}
}

// FuzzUnpack feeds archives: nothing may be written outside, and nothing may stay of what is refused.
func FuzzUnpack(f *testing.F) {
	for _, files := range [][]testimage.File{
		{folder("a/", 0o755, 0), file("a/b", "c", 0o644), link(tar.TypeLink, "h", "a/b"), link(tar.TypeSymlink, "s", "../x"), file("a/.wh.x", "", 0), file("a/.wh..wh..opq", "", 0)},
		{link(tar.TypeSymlink, "l", "/"), file("l/escaped", "x", 0o644), file("../escaped", "", 0o644)},
	} {
		b, err := testimage.Archive(files)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	if os.Getuid() != 0 {
		f.Skip("layers need root")
	}
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := s.Unpack(t.Context(), bytes.NewReader(b))
		if err == nil {
			_, _, err = measure(filepath.Join(st.dir, "fs"))
			if err != nil {
				t.Error(err)
			}
			st.Discard()
		}
		entries, err := os.ReadDir(s.dir)
		if err != nil || len(entries) != 3 {
			t.Fatalf("beside the layers: %v, %v", entries, err)
		}
		if entries, _ := os.ReadDir(s.layers()); len(entries) != 0 {
			t.Fatalf("left: %v", entries)
		}
	})
}
