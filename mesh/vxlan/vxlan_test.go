package vxlan

import (
	"context"
	"net"
	"strings"
	"testing"

	"bramble.dev/mesh/internal/kernel"
	"bramble.dev/mesh/internal/nstest"
)

func open(t *testing.T, ns *nstest.NS, name string, m byte) *Tunnel {
	t.Helper()
	var tun *Tunnel
	ns.Must(func() error {
		h, err := kernel.Open()
		if err == nil {
			t.Cleanup(h.Close)
			tun = Open(h, Options{Name: name, MAC: net.HardwareAddr{2, 0, 0, 0, 1, m}})
		}
		return err
	})
	return tun
}

// TestDevice follows one device through its life in the kernel.
func TestDevice(t *testing.T) {
	ns := nstest.New(t, "n")
	ns.Run("ip", "link", "add", "under", "type", "veth", "peer", "name", "other")
	ns.Run("ip", "addr", "add", "192.168.1.1/24", "dev", "under")
	ns.Run("ip", "addr", "add", "10.42.1.1/24", "dev", "under")
	ns.Run("ip", "link", "set", "under", "up")
	tun := open(t, ns, "vx-000001", 1)
	ctx := context.Background()
	c := config(peer("n2", "192.168.1.2", "10.42.2.0/24", "02:00:00:00:00:02"), peer("n3", "192.168.1.3", "10.42.3.0/24", "02:00:00:00:00:03"))
	c.VNI, c.Port, c.MTU = 7, 8472, 1450
	set := func() {
		t.Helper()
		ns.Must(func() error { return tun.Set(ctx, c) })
	}
	expect := func(has, hasNot string, args ...string) {
		t.Helper()
		out := ns.Run(args[0], args[1:]...)
		for _, w := range strings.Split(has, "|") {
			if !strings.Contains(out, w) {
				t.Errorf("%s: no %q in:\n%s", strings.Join(args, " "), w, out)
			}
		}
		if hasNot != "" && strings.Contains(out, hasNot) {
			t.Errorf("%s: %q in:\n%s", strings.Join(args, " "), hasNot, out)
		}
	}
	peers := c.Peers
	c.Peers = nil
	set()
	expect("under", "vx-000001", "ip", "link")
	c.Peers = peers
	set()
	set()
	expect("vxlan id 7 local 192.168.1.1|dstport 8472 nolearning|mtu 1450|02:00:00:00:01:01", "", "ip", "-d", "link", "show", "vx-000001")
	expect("10.42.2.0/24 via 10.42.2.1 proto 178 src 10.42.1.1 onlink|10.42.3.0/24", "", "ip", "route", "show", "dev", "vx-000001")
	expect("10.42.2.1 lladdr 02:00:00:00:00:02 PERMANENT|10.42.3.1", "", "ip", "neigh", "show", "dev", "vx-000001")
	expect("02:00:00:00:00:02 dst 192.168.1.2 self permanent|02:00:00:00:00:03 dst 192.168.1.3", "", "bridge", "fdb", "show", "dev", "vx-000001")

	// What others did to the device is undone, and their routes over it are left alone.
	ns.Run("bridge", "fdb", "replace", "02:00:00:00:00:02", "dst", "192.168.1.99", "dev", "vx-000001", "self")
	ns.Run("bridge", "fdb", "append", "02:00:00:00:00:77", "dst", "192.168.1.77", "dev", "vx-000001", "self")
	ns.Run("ip", "route", "del", "10.42.3.0/24", "dev", "vx-000001")
	ns.Run("ip", "route", "add", "10.99.0.0/24", "dev", "vx-000001")
	ns.Run("ip", "link", "set", "vx-000001", "down")
	c.Peers = []Peer{peer("n2", "192.168.1.22", "10.42.2.0/24", "02:00:00:00:00:02"), peers[1]}
	c.MTU = 1400
	set()
	expect("02:00:00:00:00:02 dst 192.168.1.22 self permanent", ":77", "bridge", "fdb", "show", "dev", "vx-000001")
	expect("10.42.3.0/24", "", "ip", "route", "show", "dev", "vx-000001")
	expect("mtu 1400|UP", "", "ip", "link", "show", "vx-000001")
	c.Peers = c.Peers[:1]
	set()
	expect("10.42.2.0/24", "10.42.3.0/24", "ip", "route", "show", "dev", "vx-000001")

	// Another identifier is another device.
	c.VNI = 8
	set()
	expect("vxlan id 8", "", "ip", "-d", "link", "show", "vx-000001")
	expect("10.42.2.0/24", "", "ip", "route", "show", "dev", "vx-000001")
	ns.Must(func() error { return tun.Teardown(ctx) })
	ns.Must(func() error { return tun.Teardown(ctx) })
	expect("under", "vx-000001", "ip", "link")
}

// TestTwoClustersInOneNamespace share a UDP port and not an identifier.
func TestTwoClustersInOneNamespace(t *testing.T) {
	ns := nstest.New(t, "n")
	ns.Run("ip", "addr", "add", "192.168.1.1/32", "dev", "lo")
	ns.Run("ip", "addr", "add", "10.42.1.1/32", "dev", "lo")
	one, two := open(t, ns, "vx-000001", 1), open(t, ns, "vx-000002", 2)
	c := config(peer("n2", "192.168.1.2", "10.42.2.0/24", "02:00:00:00:00:02"))
	c.VNI, c.Port, c.MTU = 7, 8472, 1450
	ns.Must(func() error { return one.Set(context.Background(), c) })
	d := c
	d.VNI, d.Peers = 9, []Peer{peer("n2", "192.168.1.2", "10.43.2.0/24", "02:00:00:00:00:09")}
	ns.Must(func() error { return two.Set(context.Background(), d) })
	if out := ns.Run("ip", "-d", "link"); strings.Count(out, "dstport 8472") != 2 {
		t.Errorf("links:\n%s", out)
	}
	d.VNI = 7
	err := ns.Do(func() error { return two.Set(context.Background(), d) })
	if err == nil || !strings.Contains(err.Error(), "vx-000001 has VXLAN identifier 7 on UDP port 8472 already") {
		t.Errorf("the same identifier twice: %v", err)
	}
	d.VNI = 9
	ns.Must(func() error { return two.Set(context.Background(), d) })
	ns.Must(func() error { return one.Teardown(context.Background()) })
	if out := ns.Run("ip", "route", "show", "dev", "vx-000002"); !strings.Contains(out, "10.43.2.0/24") {
		t.Errorf("the other cluster's route went too:\n%s", out)
	}
}

// TestPortInUse names the port.
func TestPortInUse(t *testing.T) {
	ns := nstest.New(t, "n")
	ns.Run("ip", "addr", "add", "192.168.1.1/32", "dev", "lo")
	ns.ListenPacket("0.0.0.0:8472")
	tun := open(t, ns, "vx-000001", 1)
	c := config(peer("n2", "192.168.1.2", "10.42.2.0/24", "02:00:00:00:00:02"))
	c.VNI, c.Port, c.MTU = 7, 8472, 1450
	err := ns.Do(func() error { return tun.Set(context.Background(), c) })
	if err == nil || !strings.Contains(err.Error(), "UDP port 8472 is taken") {
		t.Errorf("got %v", err)
	}
}
