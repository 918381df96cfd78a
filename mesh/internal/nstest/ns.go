// Package nstest gives tests hosts of their own: network namespaces that vanish with the test.
//
// Each namespace lives on a goroutine that is locked to its thread and never unlocked, so that no
// other goroutine ever finds itself in it. What must run in it is handed to Do.
//
//	a, b := nstest.New(t, "a"), nstest.New(t, "b")
//	nstest.Switch(t, map[*nstest.NS]string{a: "10.9.0.1/24", b: "10.9.0.2/24"})
//	a.Run("ping", "-c1", "10.9.0.2")
package nstest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	Name string
	t    testing.TB
	work chan func()
	fd   int
}

// New makes a namespace with its loopback up. It skips the test when that is not allowed, which scripts/test counts as
// a failure.
func New(t testing.TB, name string) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network tests need root")
	}
	n := &NS{Name: name, t: t, work: make(chan func())}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		t.Fatalf("namespace %s: %v", name, err)
	}
	t.Cleanup(func() {
		close(n.work)
		unix.Close(n.fd)
	})
	n.Must(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

func (n *NS) live(ready chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		ready <- err
		return
	}
	fd, err := netns.Get()
	if err != nil {
		ready <- err
		return
	}
	n.fd = int(fd)
	ready <- nil
	for f := range n.work {
		f()
	}
}

// Do runs f in the namespace and waits for it. It must not call t.Fatal.
func (n *NS) Do(f func() error) error {
	done := make(chan error, 1)
	n.work <- func() {
		defer func() {
			if p := recover(); p != nil {
				buf := make([]byte, 16<<10)
				done <- fmt.Errorf("panic: %v\n%s", p, buf[:runtime.Stack(buf, false)])
			}
		}()
		done <- f()
	}
	return <-done
}

// Must runs f in the namespace and fails the test when f does.
func (n *NS) Must(f func() error) {
	n.t.Helper()
	if err := n.Do(f); err != nil {
		n.t.Fatalf("%s: %v", n.Name, err)
	}
}

// Try runs a program in the namespace and gives its output.
func (n *NS) Try(name string, args ...string) (string, error) {
	var out []byte
	err := n.Do(func() error {
		var err error
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	return string(out), err
}

// Run is Try for programs that must succeed.
func (n *NS) Run(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Try(name, args...)
	if err != nil {
		n.t.Fatalf("%s: %s %s: %v\n%s", n.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Sysctl sets a kernel parameter, written with slashes.
func (n *NS) Sysctl(name, value string) {
	n.t.Helper()
	n.Must(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) })
}

// Dial connects from the namespace.
func (n *NS) Dial(d net.Dialer, network, addr string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = d.Dial(network, addr)
		return err
	})
	return c, err
}

// Listen listens in the namespace until the test ends.
func (n *NS) Listen(network, addr string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.Must(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket is Listen for UDP.
func (n *NS) ListenPacket(addr string) net.PacketConn {
	n.t.Helper()
	var l net.PacketConn
	n.Must(func() (err error) {
		l, err = net.ListenPacket("udp", addr)
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	return l
}

// Switch joins namespaces by a bridge that stands in a namespace of its own, as a cable and a switch
// join hosts: each gets an interface eth0 with its address. plug puts a host's cable in or takes it out.
func Switch(t testing.TB, hosts map[*NS]string) (plug func(h *NS, in bool)) {
	t.Helper()
	ports := map[*NS]string{}
	sw := New(t, "switch")
	sw.Run("ip", "link", "add", "sw0", "type", "bridge")
	sw.Run("ip", "link", "set", "sw0", "up")
	i := 0
	for h, addr := range hosts {
		port := fmt.Sprintf("p%d", i)
		ports[h] = port
		i++
		sw.Must(func() error {
			br, err := netlink.LinkByName("sw0")
			if err != nil {
				return err
			}
			la := netlink.NewLinkAttrs()
			la.Name, la.MasterIndex, la.Flags = port, br.Attrs().Index, net.FlagUp
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.fd)})
		})
		h.Sysctl("net/ipv6/conf/eth0/disable_ipv6", "1") // its first seconds would differ from later ones
		h.Run("ip", "addr", "add", addr, "dev", "eth0")
		h.Run("ip", "link", "set", "eth0", "up")
		sw.Run("ip", "link", "set", port, "up")
	}
	return func(h *NS, in bool) {
		sw.Run("ip", "link", "set", ports[h], map[bool]string{true: "up", false: "down"}[in])
	}
}

// Wire joins two namespaces by a pair of virtual links, which stay down.
func Wire(t testing.TB, a *NS, nameA string, b *NS, nameB string, mtu int) {
	t.Helper()
	a.Must(func() error {
		la := netlink.NewLinkAttrs()
		la.Name, la.MTU = nameA, mtu
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: nameB, PeerNamespace: netlink.NsFd(b.fd), PeerMTU: uint32(mtu)})
	})
}
