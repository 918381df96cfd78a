package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPool runs random operations, with crashes, against a list of what must be true.
func TestPool(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		defer os.RemoveAll(dir)
		subnet := netip.PrefixFrom(netip.MustParseAddr("10.42.1.0"), rapid.SampledFrom([]int{29, 28, 27}).Draw(t, "bits"))
		room := 1<<(32-subnet.Bits()) - 3
		open := func() *Pool {
			p, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		p := open()
		held := map[string]netip.Addr{}
		freed := map[netip.Addr]int{} // in which order
		count := 0
		check := func() {
			seen := map[netip.Addr]string{}
			for _, l := range p.List() {
				if held[l.ID] != l.IP {
					t.Fatalf("lease %v, but %s holds %v", l, l.ID, held[l.ID])
				}
				if o := seen[l.IP]; o != "" {
					t.Fatalf("%v is leased to %s and %s", l.IP, o, l.ID)
				}
				seen[l.IP] = l.ID
			}
			if len(seen) != len(held) {
				t.Fatalf("%d leases, %d holders", len(seen), len(held))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"allocate": func(t *rapid.T) {
				id := fmt.Sprintf("pod-%d", rapid.IntRange(0, room+2).Draw(t, "id"))
				l, err := p.Allocate(id, subnet, json.RawMessage(`{"a":1}`))
				if had, ok := held[id]; ok {
					if err != nil || l.IP != had {
						t.Fatalf("%s had %v, now %v, %v", id, had, l.IP, err)
					}
					return
				}
				if len(held) == room {
					if !errors.Is(err, ErrFull) {
						t.Fatalf("of a full subnet: %v, %v", l, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(slices.Collect(maps.Values(held)), l.IP) || !subnet.Contains(l.IP) || l.IP == Gateway(subnet) || l.IP == subnet.Addr() || !subnet.Contains(l.IP.Next()) {
					t.Fatalf("%v is no address for a pod", l.IP)
				}
				if at, ok := freed[l.IP]; ok {
					for a, other := range freed {
						if other < at {
							t.Fatalf("%v is taken, but %v is free for longer", l.IP, a)
						}
					}
					if room-len(held) > len(freed) {
						t.Fatalf("%v is reused, but there are addresses that nobody had", l.IP)
					}
				}
				delete(freed, l.IP)
				held[id] = l.IP
			},
			"release": func(t *rapid.T) {
				id := fmt.Sprintf("pod-%d", rapid.IntRange(0, room+2).Draw(t, "id"))
				if err := p.Release(id); err != nil {
					t.Fatal(err)
				}
				if a, ok := held[id]; ok {
					count++
					freed[a] = count
					delete(held, id)
				}
			},
			"crash": func(t *rapid.T) {
				// What a write that was cut leaves, and a cursor of any content.
				leftovers := map[string]string{".pod-1": `{"id":"po`, ".pod-2": `{"id":"pod-2","ip":"10.42.1.2"}`}
				for name, content := range leftovers {
					if rapid.Bool().Draw(t, name) {
						if err := os.WriteFile(filepath.Join(dir, "leases", name), []byte(content), 0o600); err != nil {
							t.Fatal(err)
						}
					}
				}
				if rapid.Bool().Draw(t, "cursor is lost") {
					os.Remove(filepath.Join(dir, cursor))
				}
				clear(freed)
				p = open()
				for name := range leftovers {
					if _, err := os.Stat(filepath.Join(dir, "leases", name)); !errors.Is(err, os.ErrNotExist) {
						t.Fatalf("%s was left there", name)
					}
				}
			},
		})
	})
}

func TestBrokenLeases(t *testing.T) {
	dir := t.TempDir()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	subnet := netip.MustParsePrefix("10.42.1.0/24")
	good, err := p.Allocate("good", subnet, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty": "", "torn": `{"id":"torn","ip":"10.42`, "another": `{"id":"else","ip":"10.42.1.9"}`,
		"twice": fmt.Sprintf(`{"id":"twice","ip":%q}`, good.IP), "nowhere": `{"id":"nowhere","ip":""}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "leases", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	if l := p.List(); len(l) != 1 || l[0].IP != good.IP {
		t.Errorf("leases: %v", l)
	}
	for _, id := range []string{"", ".hidden", "a/b", "a\x00b"} {
		if _, err := p.Allocate(id, subnet, nil); err == nil {
			t.Errorf("allocated for %q", id)
		}
	}
	for _, s := range []string{"2001:db8::/64", "10.0.0.0/30"} {
		if _, err := p.Allocate("x", netip.MustParsePrefix(s), nil); err == nil {
			t.Errorf("allocated from %s", s)
		}
	}
	if _, err := p.Allocate("x", netip.Prefix{}, nil); err == nil {
		t.Error("allocated from no subnet")
	}
}

// TestNothingIsWrittenIdle: looking and allocating what is there leaves the folder alone.
func TestNothingIsWrittenIdle(t *testing.T) {
	dir := t.TempDir()
	subnet := netip.MustParsePrefix("10.42.1.0/24")
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate("a", subnet, nil); err != nil {
		t.Fatal(err)
	}
	before := stamps(t, dir)
	if p, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	p.List()
	p.Get("a")
	if _, err := p.Allocate("a", subnet, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Release("nobody"); err != nil {
		t.Fatal(err)
	}
	if after := stamps(t, dir); !maps.Equal(before, after) {
		t.Errorf("written: before %v, after %v", before, after)
	}
}

func stamps(t *testing.T, dir string) map[string]int64 {
	out := map[string]int64{}
	err := filepath.Walk(dir, func(path string, i os.FileInfo, err error) error {
		if err == nil {
			out[path] = i.ModTime().UnixNano()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
