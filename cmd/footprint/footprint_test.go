package footprint

import (
	"reflect"
	"strings"
	"testing"
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
