package firewall

import (
	"bytes"
	"context"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
)

func lines(s string) []string {
	var out []string
	for _, l := range strings.Split(s, "\n") {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func TestPlan(t *testing.T) {
	const in, out = "-i br-1 -m comment --comment bramble-1 -j ACCEPT", "-o br-1 -m comment --comment bramble-1 -j ACCEPT"
	const tin, tout = "-i vx-1 -m comment --comment bramble-1 -j ACCEPT", "-o vx-1 -m comment --comment bramble-1 -j ACCEPT"
	const udp = "-p udp -m udp --dport 8472 -m comment --comment bramble-1 -j ACCEPT"
	for _, tt := range []struct {
		name, rules, want string
	}{
		{"nothing drops", "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-N DOCKER-USER", ""},
		{"Docker", "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN", `
			-I DOCKER-USER 1 ` + in + `
			-I DOCKER-USER 2 ` + out + `
			-I DOCKER-USER 3 ` + tin + `
			-I DOCKER-USER 4 ` + tout},
		{"Docker, mended", "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A DOCKER-USER " + in + "\n-A DOCKER-USER " + out + "\n-A DOCKER-USER " + tin + "\n-A DOCKER-USER " + tout + "\n-A DOCKER-USER -j RETURN", ""},
		{"ufw", "-P INPUT DROP\n-P FORWARD DROP\n-A FORWARD -j ufw-before-forward", `
			-N BRAMBLE-1
			-N BRAMBLE-IN-1
			-A BRAMBLE-1 ` + in + `
			-A BRAMBLE-1 ` + out + `
			-A BRAMBLE-1 ` + tin + `
			-A BRAMBLE-1 ` + tout + `
			-A BRAMBLE-IN-1 ` + in + `
			-A BRAMBLE-IN-1 ` + udp + `
			-I FORWARD 1 -j BRAMBLE-1
			-I INPUT 1 -j BRAMBLE-IN-1`},
		{"Docker came after ufw", "-P INPUT DROP\n-P FORWARD DROP\n-N DOCKER-USER\n-N BRAMBLE-1\n-N BRAMBLE-IN-1\n-A FORWARD -j BRAMBLE-1\n-A BRAMBLE-1 " + in + "\n-A BRAMBLE-1 " + out + "\n-A BRAMBLE-IN-1 " + in + "\n-A BRAMBLE-IN-1 " + udp + "\n-A INPUT -j BRAMBLE-IN-1", `
			-I DOCKER-USER 1 ` + in + `
			-I DOCKER-USER 2 ` + out + `
			-I DOCKER-USER 3 ` + tin + `
			-I DOCKER-USER 4 ` + tout + `
			-D BRAMBLE-1 ` + in + `
			-D BRAMBLE-1 ` + out + `
			-D FORWARD -j BRAMBLE-1
			-X BRAMBLE-1`},
		{"Docker went, another instance stays", "-P FORWARD ACCEPT\n-N DOCKER-USER\n-A DOCKER-USER " + in + "\n-A DOCKER-USER -i br-2 -m comment --comment bramble-2 -j ACCEPT", `
			-D DOCKER-USER ` + in},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(tt.rules)
			got := plan(r, namesOf("1"), wanted(r, namesOf("1"), "br-1", "vx-1", 8472))
			if want := lines(tt.want); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func open(t *testing.T, ns *nstest.NS, log *bytes.Buffer) *Firewall {
	t.Helper()
	var f *Firewall
	ns.Must(func() error {
		conn, err := nft.Dial()
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		f = Open(Options{Instance: "000001", Bridge: "br-000001", Tunnel: "vx-000001", Table: "bramble-000001", Logger: slog.New(slog.NewTextHandler(log, nil)),
			Chains: conn.BaseChains, Enter: func(f func() error) error { return f() }})
		return nil
	})
	return f
}

// TestIptables mends real iptables of both kinds, as Docker and ufw leave them.
func TestIptables(t *testing.T) {
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		for _, who := range []string{"docker", "ufw"} {
			t.Run(program+" "+who, func(t *testing.T) {
				path := first(program)
				if path == "" {
					t.Skipf("%s is not installed", program)
				}
				ns := nstest.New(t, "n")
				if out, err := ns.Try(path, "-P", "FORWARD", "DROP"); err != nil {
					t.Skipf("%s does not work here: %v: %s", program, err, out)
				}
				if who == "docker" {
					ns.Run(path, "-N", "DOCKER-USER")
					ns.Run(path, "-A", "FORWARD", "-j", "DOCKER-USER")
				} else {
					ns.Run(path, "-P", "INPUT", "DROP")
				}
				before := ns.Run(path, "-S")
				var log bytes.Buffer
				f := open(t, ns, &log)
				for range 3 {
					ns.Must(func() error { return f.Set(context.Background(), Config{TunnelPort: 8472}) })
				}
				after := ns.Run(path, "-S")
				if n := strings.Count(after, "br-000001"); n != map[string]int{"docker": 2, "ufw": 3}[who] {
					t.Errorf("%d rules:\n%s", n, after)
				}
				if n := strings.Count(log.String(), "level="); n != map[string]int{"docker": 1, "ufw": 2}[who] || !strings.Contains(log.String(), map[string]string{"docker": "DOCKER-USER", "ufw": "BRAMBLE-000001"}[who]) {
					t.Errorf("said %d times:\n%s", n, log.String())
				}
				ns.Must(func() error { return f.Teardown(context.Background()) })
				if left := ns.Run(path, "-S"); left != before {
					t.Errorf("before:\n%s\nleft:\n%s", before, left)
				}
			})
		}
	}
}

func TestSomebodysNftables(t *testing.T) {
	ns := nstest.New(t, "n")
	ns.Run("nft", "add table inet guard; add chain inet guard through { type filter hook forward priority 0; policy drop; }; add chain inet guard out { type filter hook output priority 0; policy accept; }")
	before := ns.Run("nft", "list", "ruleset")
	var log bytes.Buffer
	f := open(t, ns, &log)
	for range 2 {
		ns.Must(func() error { return f.Set(context.Background(), Config{}) })
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "nft insert rule inet guard through iifname { br-000001, vx-000001 } accept") {
		t.Errorf("said:\n%s", got)
	}
	if after := ns.Run("nft", "list", "ruleset"); after != before {
		t.Errorf("changed:\n%s", after)
	}
}

// TestNothingIsTouched where nothing drops: no iptables table comes into being.
func TestNothingIsTouched(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	ns := nstest.New(t, "n")
	var log bytes.Buffer
	f := open(t, ns, &log)
	ns.Must(func() error { return f.Set(context.Background(), Config{TunnelPort: 8472}) })
	ns.Must(func() error { return f.Teardown(context.Background()) })
	if out := ns.Run("nft", "list", "ruleset"); out != "" || log.Len() > 0 {
		t.Errorf("rules %q, said %q", out, log.String())
	}
}
