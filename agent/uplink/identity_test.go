package uplink

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A board whose disk is full must come to its server, which alone can take away what fills it.
func TestSessionsAreCountedOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("this test mounts a tmpfs and needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	open := func() *identity {
		t.Helper()
		id := &identity{dir: dir}
		if err := id.load(); err != nil {
			t.Fatal(err)
		}
		return id
	}
	last, err := open().next()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "films"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for range 10 { // restarts: from 17 to 161, which is a digit more
		n, err := open().next()
		if err != nil || n <= last {
			t.Fatalf("session %d after %d: %v", n, last, err)
		}
		last = n
	}
}
