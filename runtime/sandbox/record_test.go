package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRecords(t *testing.T) {
	dir, err := Open(filepath.Join(t.TempDir(), "pods"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := dir.Save(Record{ID: id, Name: "pod-" + id}); err != nil {
			t.Fatal(err)
		}
		if err := dir.SaveContainer(id, Container{ID: id + "1", Name: "c"}); err != nil {
			t.Fatal(err)
		}
	}
	// What a crash may leave: a folder without a record, half a record, one that was being removed.
	_ = os.Mkdir(dir.Sandbox("empty"), 0o700)
	_ = os.Mkdir(dir.Sandbox("half"), 0o700)
	_ = os.WriteFile(filepath.Join(dir.Sandbox("half"), "sandbox.json"), []byte(`{"id":"ha`), 0o600)
	_ = os.Mkdir(dir.Container("a", "torn"), 0o700)
	_ = os.Rename(dir.Sandbox("b"), dir.Sandbox(gone+"b"))
	all, err := dir.Load()
	if err != nil || len(all) != 1 || all[0].Name != "pod-a" || len(all[0].Containers) != 1 || all[0].Containers[0].ID != "a1" {
		t.Fatalf("%+v, %v", all, err)
	}
	if entries, _ := os.ReadDir(dir.path); len(entries) != 1 {
		t.Errorf("not swept: %v", entries)
	}
	for range 2 {
		if err := dir.Remove("a"); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ := os.ReadDir(dir.path); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestExit(t *testing.T) {
	const whole = "v=1\ncode=37\noom=1\nfailed=0\nstarted=1000000000\nfinished=2000000005\nend\n"
	got, err := parseExit([]byte(whole))
	if want := (Exit{Code: 37, OOM: true, StartedAt: time.Unix(1, 0), FinishedAt: time.Unix(2, 5)}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range len(whole) { // a torn write is never an exit code
		if _, err := parseExit([]byte(whole[:n])); err == nil {
			t.Errorf("%q is taken for whole", whole[:n])
		}
	}
	if _, err := parseExit([]byte(strings.Replace(whole, "37", "x", 1))); err == nil {
		t.Error("a code that is no number")
	}
}

func FuzzExit(f *testing.F) {
	f.Add([]byte("v=1\ncode=37\nfinished=5\nend\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseExit(b) })
}
