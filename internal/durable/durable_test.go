package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"bramble.dev/internal/durable"
)

func TestWriteFileMakesAndReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	for _, c := range []struct {
		content string
		mode    os.FileMode
	}{{"one", 0o600}, {"two, which is longer", 0o644}, {"", 0o600}} {
		if err := durable.WriteFile(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != c.content || info.Mode() != c.mode {
			t.Errorf("wrote %q %v, found %q %v", c.content, c.mode, got, info.Mode())
		}
	}
	only(t, filepath.Dir(path), "node.key")
}

func TestWriteFileReplacesALink(t *testing.T) {
	dir := t.TempDir()
	path, target := filepath.Join(dir, "link"), filepath.Join(t.TempDir(), "target")
	if err := errors.Join(os.WriteFile(target, []byte("another's"), 0o600), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, target); got != "another's" {
		t.Errorf("the link was followed: its target is %q", got)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link is still there: %v %v", info, err)
	}
}

func TestWriteFileThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "folder")
	if err := os.Mkdir(path, 0o700); err != nil { // no file can be renamed onto it
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	only(t, dir, "folder")
	if err := durable.WriteFile(filepath.Join(dir, "none", "x"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func TestSyncDir(t *testing.T) {
	if err := durable.SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := durable.SyncDir(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	// The kernel's own file systems have no fsync, as some of those where backups go.
	if err := durable.SyncFile("/proc/self"); !errors.Is(err, syscall.EINVAL) {
		t.Skipf("/proc knows fsync: %v", err)
	}
	if err := durable.SyncDir("/proc/self"); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func only(t *testing.T, dir, want string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != want {
		t.Errorf("%s holds %v, want %s alone", dir, entries, want)
	}
}
