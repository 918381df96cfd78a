package clock

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func open(t *testing.T, path string, step bool) (*Floor, *[]time.Time) {
	t.Helper()
	f, err := Open(path, step, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var set []time.Time
	f.set = func(at time.Time) error { set = append(set, at); return nil }
	return f, &set
}

func TestFloorIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	future := time.Now().Add(72 * time.Hour).Truncate(time.Second)
	f, _ := open(t, path, false)
	f.Learn(future)
	again, set := open(t, path, true)
	if !again.Now().Equal(future) {
		t.Errorf("now is %v, want %v", again.Now(), future)
	}
	again.Raise()
	if len(*set) != 1 || !(*set)[0].Equal(future) {
		t.Errorf("set to %v", *set)
	}
	again.Learn(time.Now()) // earlier: changes nothing
	if !again.Time().Equal(future) || len(*set) != 1 {
		t.Errorf("went back to %v", again.Time())
	}
}

func TestClockIsNotSteppedUnlessAllowed(t *testing.T) {
	f, set := open(t, filepath.Join(t.TempDir(), "floor"), false)
	f.Learn(time.Now().Add(time.Hour))
	if len(*set) != 0 {
		t.Error("stepped")
	}
}

func TestWritesOncePerDay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	f, _ := open(t, path, false)
	f.Learn(time.Now())
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		f.Learn(time.Now().Add(time.Duration(i) * time.Minute))
	}
	after, _ := os.Stat(path)
	if !before.ModTime().Equal(after.ModTime()) {
		t.Error("written again within a day")
	}
}
