package clock

import (
	"context"
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
	is := func(what string, at time.Time) {
		t.Helper()
		if d := at.Sub(future); d < 0 || d > time.Minute {
			t.Errorf("%s %v, want %v", what, at, future)
		}
	}
	is("now is", again.Now())
	again.Raise()
	if len(*set) != 1 {
		t.Fatalf("set to %v", *set)
	}
	is("set to", (*set)[0])
	again.Learn(time.Now()) // earlier: changes nothing
	is("went back to", again.Time())
	if len(*set) != 1 {
		t.Errorf("set to %v", *set)
	}
}

// A clock that was once in the far future must not make certificates "expired" when it is right again: what this board's
// clock says is not written, the time that it runs is.
func TestTheFloorDoesNotComeFromTheSystemsClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "floor")
	signed := time.Now().Add(-1000 * time.Hour).Truncate(time.Second)
	if err := write(path, signed); err != nil {
		t.Fatal(err)
	}
	f, _ := open(t, path, false)
	f.at = f.at.Add(-30 * time.Hour) // as long as it has run
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Run(ctx)
	again, _ := open(t, path, false)
	if d := again.Time().Sub(signed); d < 30*time.Hour || d > 31*time.Hour {
		t.Errorf("the floor is %v after the signed time, want the 30 hours that have passed", d)
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
