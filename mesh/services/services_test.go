package services

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

// TestSomebodyElseFlushed: a lost table comes back with the next Set.
func TestSomebodyElseFlushed(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	p := Open(k, Options{Table: table})
	if err := p.Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	want := k.Text(table)
	if err := k.Apply([]nft.Op{nft.DeleteTable{Table: table}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	if got := k.Text(table); got != want {
		t.Errorf("after a flush:\n%s", nfttest.Differences(got, want))
	}
	applied := k.Applied
	if err := p.Set(ctx, everything()); err != nil || k.Applied != applied {
		t.Errorf("Set of a healthy table changed it (%v)", err)
	}
}

// TestAFailedLook: what could not be told because the kernel could not be asked is told with the next Set.
func TestAFailedLook(t *testing.T) {
	ctx := context.Background()
	k := &blind{Kernel: nfttest.New()}
	p := Open(k, Options{Table: table})
	c := everything()
	if err := p.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	c.Services = c.Services[1:]
	k.err = unix.ENOBUFS
	if err := p.Set(ctx, c); !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("got %v", err)
	}
	k.err = nil
	if err := p.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	want := nfttest.New()
	if err := Open(want, Options{Table: table}).Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	if got, want := k.Text(table), want.Text(table); got != want {
		t.Errorf("the table is not that of the configuration:\n%s", nfttest.Differences(got, want))
	}
}

// blind is a kernel that cannot be asked for a table while err is set.
type blind struct {
	*nfttest.Kernel
	err error
}

func (b *blind) TableHandle(table string) (uint64, bool, error) {
	if b.err != nil {
		return 0, false, b.err
	}
	return b.Kernel.TableHandle(table)
}

// TestAnElementWasRemoved: a difference that the kernel refuses leads to the whole table.
func TestAnElementWasRemoved(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	var said []string
	log := slog.New(strict{slog.DiscardHandler, func(s string) { said = append(said, s) }})
	p := Open(k, Options{Table: table, Logger: log})
	c := everything()
	if err := p.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	key := nft.MakeKey(netip.MustParseAddr("10.43.0.20"), uint8(nft.TCP), uint16(80))
	if err := k.Apply([]nft.Op{nft.DeleteElements{Table: table, Set: vips, Elements: []nft.Element{{Key: key}}}}); err != nil {
		t.Fatal(err)
	}
	c.Services = c.Services[1:] // Service plain goes, whose element is gone already
	if err := p.Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	fresh := nfttest.New()
	if err := Open(fresh, Options{Table: table}).Set(ctx, c); err != nil {
		t.Fatal(err)
	}
	if got, want := k.Text(table), fresh.Text(table); got != want {
		t.Errorf("after the repair:\n%s", nfttest.Differences(got, want))
	}
	if len(said) != 1 || !strings.Contains(said[0], "loading them anew") {
		t.Errorf("said %q", said)
	}
}

func TestKernelRefuses(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	p := Open(k, Options{Table: table})
	if err := p.Set(ctx, testConfig()); err != nil {
		t.Fatal(err)
	}
	before := k.Text(table)
	k.Fail = func([]nft.Op) error { return errors.New("no memory") }
	if err := p.Set(ctx, everything()); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Fatalf("got %v", err)
	}
	if k.Text(table) != before {
		t.Error("a refused transaction changed the table")
	}
	k.Fail = nil
	if err := p.Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	fresh := nfttest.New()
	if err := Open(fresh, Options{Table: table}).Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	if got, want := k.Text(table), fresh.Text(table); got != want {
		t.Errorf("after a failure:\n%s", nfttest.Differences(got, want))
	}
}

// TestRestartKeepsClients: a new process replaces the table and knows who had been sent where.
func TestRestartKeepsClients(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	if err := Open(k, Options{Table: table}).Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	const set = "clients/default/sticky/tcp/80/10.42.2.6/8080/1m0s"
	client := nft.MakeKey(netip.MustParseAddr("10.42.1.6"))
	k.Remember(table, set, client, 17*time.Second)
	handle, _, _ := k.TableHandle(table)
	if err := Open(k, Options{Table: table}).Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	if now, _, _ := k.TableHandle(table); now == handle {
		t.Fatal("the table of the earlier process was not replaced")
	}
	got, err := k.Elements(table, set)
	if err != nil || len(got) != 1 || got[0].Key != client || got[0].Expires != 17*time.Second {
		t.Errorf("clients after the restart: %v, %v", got, err)
	}
}

// forgetful is a Conntrack of flows in memory.
type forgetful struct{ flows map[Flow]bool }

func (f forgetful) Forget(match func(Flow) bool) error {
	for x := range f.flows {
		if match(x) {
			delete(f.flows, x)
		}
	}
	return nil
}

func TestFlowsToLostEndpointsAreForgotten(t *testing.T) {
	ctx := context.Background()
	flow := func(proto uint8, to, from string) Flow {
		return Flow{proto, netip.MustParseAddrPort(to), netip.MustParseAddrPort(from)}
	}
	dead, alive, early := flow(nft.UDP, "10.43.0.30:53", "10.42.1.5:53"), flow(nft.UDP, "10.43.0.30:53", "10.42.2.6:53"), flow(nft.UDP, "10.43.0.30:53", "10.43.0.30:53")
	node, tcp, other := flow(nft.UDP, "192.168.1.1:30053", "10.42.1.5:53"), flow(nft.TCP, "10.43.0.30:53", "10.42.1.5:53"), flow(nft.UDP, "9.9.9.9:53", "9.9.9.9:53")
	hostPort := flow(nft.UDP, "192.168.1.1:5000", "10.42.1.9:5000")
	all := []Flow{dead, alive, early, node, tcp, other, hostPort}
	svc := service("dns", "10.43.0.30", corev1.ServicePort{Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30053})
	udp := to("", 53, "UDP")
	pods := []Pod{{IP: netip.MustParseAddr("10.42.1.9"), Ports: []HostPort{{HostPort: 5000, Port: 5000, Protocol: corev1.ProtocolUDP}}}}
	with := func(eps ...string) Config {
		c := testConfig()
		c.Services = []*corev1.Service{svc}
		s := slice("dns", udp)
		for _, ip := range eps {
			s.Endpoints = append(s.Endpoints, ep(ip, "n1"))
		}
		c.Endpoints = append(c.Endpoints, s)
		c.Pods = pods
		return c
	}
	gone := testConfig()
	gone.Pods = pods
	noPods := with("10.42.1.5", "10.42.2.6")
	noPods.Pods = nil
	for _, tt := range []struct {
		name          string
		before, after Config
		forgotten     []Flow
	}{
		{"nothing changes", with("10.42.1.5", "10.42.2.6"), with("10.42.1.5", "10.42.2.6"), nil},
		{"an endpoint comes", with("10.42.2.6"), with("10.42.1.5", "10.42.2.6"), nil},
		{"an endpoint goes", with("10.42.1.5", "10.42.2.6"), with("10.42.2.6"), []Flow{dead, early, node}},
		{"the first endpoint comes", with(), with("10.42.1.5", "10.42.2.6"), []Flow{early}},
		{"the Service goes", with("10.42.1.5", "10.42.2.6"), gone, []Flow{dead, alive, early, node}},
		{"a pod with a host port goes", with("10.42.1.5", "10.42.2.6"), noPods, []Flow{hostPort}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := forgetful{map[Flow]bool{}}
			p := Open(nfttest.New(), Options{Table: table, Conntrack: f})
			if err := p.Set(ctx, tt.before); err != nil {
				t.Fatal(err)
			}
			for _, x := range all {
				f.flows[x] = true
			}
			if err := p.Set(ctx, tt.after); err != nil {
				t.Fatal(err)
			}
			for _, x := range tt.forgotten {
				if f.flows[x] {
					t.Errorf("%v is remembered", x)
				}
				delete(f.flows, x)
			}
			if len(f.flows) != len(all)-len(tt.forgotten) {
				t.Errorf("left: %v", f.flows)
			}
		})
	}
}
