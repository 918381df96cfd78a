package server

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bramble.dev/server/auth"
	"bramble.dev/server/store"
)

// TestBackupAndRestore: with names relative to the working folder too, as people type them.
func TestBackupAndRestore(t *testing.T) {
	data := t.TempDir()
	if _, err := auth.OpenPKI(pkiDir(data), auth.PKIOptions{}); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{Path: databasePath(data), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := Backup(t.Context(), data, nil, "b"); err != nil {
		t.Fatal(err)
	}
	restored := filepath.Join(t.TempDir(), "a", "b")
	if err := Restore(t.Context(), "b", restored, nil); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]int{".": 1, filepath.Dir(restored): 1, restored: 1} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != want {
			t.Errorf("%s: %v %v", dir, left, err)
		}
	}
	if err := Restore(t.Context(), "b", restored, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("restored over a cluster: %v", err)
	}
}

func TestBackupOfNothing(t *testing.T) {
	dir := t.TempDir()
	err := Backup(t.Context(), filepath.Join(dir, "none"), nil, filepath.Join(dir, "b"))
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestRefusedRestore: what cannot be restored leaves the folder, and the one above it, as they were.
func TestRefusedRestore(t *testing.T) {
	files := t.TempDir()
	write := func(name string, entries map[string]string) string {
		path := filepath.Join(files, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z := gzip.NewWriter(f)
		w := tar.NewWriter(z)
		for name, text := range entries {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := filepath.Join(files, "text")
	if err := os.WriteFile(text, []byte("not a backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, file, want string }{
		{"missing", filepath.Join(files, "nope"), "does not exist"},
		{"text", text, "no whole backup"},
		{"a folder", files, "no whole backup"},
		{"no database", write("keys", map[string]string{"pki/ca.key": "k"}), "has no state.db"},
		{"a database that is none", write("bad", map[string]string{"pki/ca.key": "k", "state.db": strings.Repeat("x", 8192)}), "no whole backup"},
		{"a way out of the folder", write("way", map[string]string{"pki/../../x": "k"}), "has an entry"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			above := t.TempDir()
			err := Restore(t.Context(), tt.file, filepath.Join(above, "a", "b"), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.file) {
				t.Errorf("error %v", err)
			}
			if left, err := os.ReadDir(above); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}
