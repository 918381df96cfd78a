package image

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"bramble.dev/runtime/testimage"
)

// TestUse: an image knows whether a registry has it and when it was last used, also after a restart.
func TestUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	host := testRegistry(t, nil)
	s.opts.Insecure = []string{host}
	img := busybox(t, testimage.Options{Cmd: []string{"sleep", "1"}})
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := testimage.WriteDocker(file, host+"/a:1", img); err != nil {
		t.Fatal(err)
	}
	got, err := importFile(t, s, file)
	if err != nil || !got[0].Imported || time.Since(got[0].Used) > time.Minute {
		t.Fatalf("imported %+v, %v", got, err)
	}
	id, later := got[0].ID, time.Now().Add(2*time.Hour).Truncate(time.Second)
	s.MarkUsed(id, later)
	s.MarkUsed(id, later.Add(-time.Hour)) // a clock that went back
	for range 2 {
		if i, _ := s.Resolve(id); !i.Used.Equal(later) || !i.Imported {
			t.Errorf("image %+v, want it used at %v", i, later)
		}
		s = open(t, dir, s.opts)
	}
	push(t, host+"/a:1", img)
	if i, err := s.Pull(t.Context(), host+"/a:1", PullOptions{}); err != nil || i.ID != id || i.Imported {
		t.Errorf("pulled %+v, %v", i, err)
	}
}

// TestReclaim: what only spares work goes, what images stand on stays.
func TestReclaim(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := testimage.WriteDocker(file, "a:1", busybox(t, testimage.Options{})); err != nil {
		t.Fatal(err)
	}
	got, err := importFile(t, s, file)
	if err != nil {
		t.Fatal(err)
	}
	part, layer := filepath.Join(s.downloads(), "0123.part"), filepath.Join(dir, "layers", "0123456789abcdef01234567")
	if err := os.WriteFile(part, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(layer, "fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{part, layer} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	for _, l := range got[0].Layers {
		if err := s.snap.Verify(l); err != nil {
			t.Error(err)
		}
	}
}
