package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestResolversAreFollowed: a modem comes up and brings others, while nothing else changes.
func TestResolversAreFollowed(t *testing.T) {
	n := &network{resolvConf: filepath.Join(t.TempDir(), "resolv.conf")}
	for _, step := range []struct {
		file    string // "": as it was
		changed bool
		want    []string
	}{
		{"nameserver 192.168.1.1\n", false, []string{"192.168.1.1"}}, // nothing was set yet, so nothing is to be set again
		{"", false, []string{"192.168.1.1"}},
		{"nameserver 192.168.1.1\nsearch lan\n", false, []string{"192.168.1.1"}},
		{"nameserver 10.64.64.64\nnameserver 192.168.1.1\n", true, []string{"10.64.64.64", "192.168.1.1"}},
		{"search lan\n", true, nil},
	} {
		if step.file != "" {
			if err := os.WriteFile(n.resolvConf, []byte(step.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := n.asksOthers(); got != step.changed {
			t.Errorf("after %q: others %v, want %v", step.file, got, step.changed)
		}
		if got := n.upstream(); !slices.Equal(got, step.want) {
			t.Errorf("after %q: %v, want %v", step.file, got, step.want)
		}
	}
}

// TestNoAddressYet: a board that boots with its cable out tells pods no address, and not that there is an "invalid IP".
func TestNoAddressYet(t *testing.T) {
	s := &self{}
	if got := s.addresses(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	s.ip = netip.MustParseAddr("192.168.1.2")
	if got := s.addresses(); !slices.Equal(got, []string{"192.168.1.2"}) {
		t.Errorf("%v", got)
	}
}
