package footprint

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestReadOnly(t *testing.T) {
	const maps = `00400000-01000000 r-xp 00000000 fe:00 12 /bin/x
01000000-02000000 r--p 00c00000 fe:00 12 /bin/x
02000000-02100000 rw-p 01c00000 fe:00 12 /bin/x
7f0000000000-7f0000001000 r-xp 00000000 fe:00 13 /lib/libc.so
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
`
	got, err := readOnly(strings.NewReader(maps), "/bin/x")
	if err != nil {
		t.Fatal(err)
	}
	if want := []span{{0x400000, 0x1000000}, {0x1000000, 0x2000000}}; !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// The kernel takes the advice, and the program goes on.
func TestRelease(t *testing.T) {
	for range 2 {
		if err := Release(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDue(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name      string
		since     time.Duration
		left, now int64
		busy      time.Duration // processor time since the last look
		want      bool
	}{
		{"just given back", time.Minute, 20 * mib, 60 * mib, 0, false},
		{"quiet and small", 10 * time.Minute, 20 * mib, 25 * mib, 0, false},
		{"quiet after work", 10 * time.Minute, 20 * mib, 40 * mib, time.Second, true},
		{"at work", 10 * time.Minute, 20 * mib, 40 * mib, 20 * time.Second, false},
		{"at work for long", time.Hour, 20 * mib, 40 * mib, 20 * time.Second, true},
	} {
		before := use{c.now, time.Minute}
		if got := due(c.since, c.left, before, use{c.now, before.processor + c.busy}); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

func TestMeasure(t *testing.T) {
	u, err := measure()
	if err != nil || u.resident < 1<<20 || u.processor <= 0 {
		t.Errorf("%+v, %v", u, err)
	}
}
