package mountinfo

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := "lowerdir=" + strings.Repeat("l/fs:", 1<<14) + "m/fs"
	got, err := Parse(strings.NewReader(`22 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/sda1 rw,errors=remount-ro
36 25 0:29 / /a\040b rw,relatime - nfs4 nas:/srv/da\134ta rw,vers=4.2
nonsense
37 25 0:30 /
40 22 0:31 / /run/root rw - overlay overlay ro,` + long + "\n"))
	want := []Mount{
		{"/", "8:1", []string{"shared:1", "master:2"}, "ext4", "/dev/sda1", []string{"rw", "errors=remount-ro"}},
		{"/a b", "0:29", []string{}, "nfs4", `nas:/srv/da\ta`, []string{"rw", "vers=4.2"}},
		{"/run/root", "0:31", []string{}, "overlay", "overlay", []string{"ro", long}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestParseTooLong(t *testing.T) {
	if _, err := Parse(strings.NewReader(strings.Repeat("x", longest+1))); err == nil {
		t.Error("a line that cannot be read is no error")
	}
}

func TestSelf(t *testing.T) {
	all, err := Self()
	if err != nil || len(all) == 0 {
		t.Errorf("%d mounts, %v", len(all), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("36 25 0:29 / /a\\040b rw,relatime shared:1 - nfs4 nas:/srv/data rw,vers=4.2,addr=10.99.0.1")
	f.Add("36 25 0:29 / /a - x")
	f.Fuzz(func(t *testing.T, s string) {
		all, err := Parse(strings.NewReader(s))
		if n := strings.Count(s, "\n") + 1; err == nil && len(all) > n {
			t.Errorf("%d mounts of %d lines", len(all), n)
		}
	})
}
