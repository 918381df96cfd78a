package hosts

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one machine of a lab.
type Host struct {
	Name string
	IP   netip.Addr

	lab *Lab
	ns  *namespace
}

func (l *Lab) addHost(i int) (*Host, error) {
	h := &Host{Name: fmt.Sprintf("host%d", i), IP: nth(l.Subnet, byte(i)), lab: l}
	if err := os.MkdirAll(h.Data(), 0o700); err != nil {
		return nil, err
	}
	ns, err := newNamespace(h.Data(), l.name, h.Name)
	if err != nil {
		return nil, err
	}
	h.ns = ns
	if err := l.plug(h.Name, ns.handle, "eth0", h.IP); err != nil {
		ns.close()
		return nil, err
	}
	if err := ns.defaultRoute(l.Root); err != nil {
		ns.close()
		return nil, err
	}
	return h, nil
}

// defaultRoute leads through this machine, which forwards nothing: a board's agent looks at its default route to
// find its own address.
func (n *namespace) defaultRoute(gateway netip.Addr) error {
	if err := n.netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	return nil
}

// Data is the host's data folder as the test sees it; the host sees it as DataDir.
func (h *Host) Data(parts ...string) string {
	return filepath.Join(append([]string{h.lab.dir, "data", h.Name}, parts...)...)
}

// enter makes the command one that runs in the host, in the host's cgroup.
func (h *Host) enter(argv []string) []string {
	// In a fresh cgroup namespace the host's own group is the root of each hierarchy; on version 2 its leaf is meant.
	const join = `if [ -d ` + leaf + ` ]; then echo 0 >` + leaf + `/cgroup.procs; else for f in /sys/fs/cgroup/*/cgroup.procs; do echo 0 >"$f"; done; fi; exec "$@"`
	pid := strconv.Itoa(h.ns.cmd.Process.Pid)
	return append([]string{"nsenter", "-t", pid, "-m", "-n", "-u", "-i", "-p", "-C", "--", "/bin/sh", "-c", join, "sh"}, argv...)
}

// Run runs a command in the host and returns what it printed; an error has its last lines.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	args := h.enter(argv)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s on %s: %w: %s", argv[0], h.Name, err, lastLines(errs.String(), 10))
	}
	return out.String(), nil
}

// Cut takes the host's cable out; Restore puts it back.
func (h *Host) Cut() error { return h.port((*netlink.Handle).LinkSetDown) }

// Restore puts the host's cable back.
func (h *Host) Restore() error { return h.port((*netlink.Handle).LinkSetUp) }

func (h *Host) port(set func(*netlink.Handle, netlink.Link) error) error {
	sw := h.lab.bridge.netlink
	link, err := sw.LinkByName(h.Name)
	if err != nil {
		return fmt.Errorf("port of %s: %w", h.Name, err)
	}
	return set(sw, link)
}

// Traffic counts the bytes that crossed the host's cable, every header included.
type Traffic struct{ Received, Sent uint64 }

// Traffic since the host was made.
func (h *Host) Traffic() (Traffic, error) {
	link, err := h.ns.netlink.LinkByName("eth0")
	if err != nil {
		return Traffic{}, fmt.Errorf("interface of %s: %w", h.Name, err)
	}
	s := link.Attrs().Statistics
	return Traffic{Received: s.RxBytes, Sent: s.TxBytes}, nil
}

// Neighbour is the Ethernet address that the root namespace has for an address of the switch, "" for none.
func Neighbour(a netip.Addr) (string, error) {
	list, err := netlink.NeighList(0, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range list {
		if n.IP.Equal(a.AsSlice()) && len(n.HardwareAddr) > 0 {
			return n.HardwareAddr.String(), nil
		}
	}
	return "", nil
}

// Dial connects from the host's network.
func (h *Host) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.inNetwork(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens in the host's network.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.inNetwork(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// inNetwork runs do on a thread that is in the host's network namespace. A socket stays in the namespace in which it
// was made, wherever it is used later. Dialling an address (not a name) happens on the calling thread.
func (h *Host) inNetwork(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Setns(h.ns.handle.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network of %s: %w", h.Name, err)
			return
		}
		done <- do()
	}()
	return <-done
}
