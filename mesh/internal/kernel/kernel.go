// Package kernel is what the mesh's parts share when they speak to the kernel: a network namespace
// that stays the same whichever thread a goroutine finds itself on, sysctls, and names of links.
//
//	host, err := kernel.Open()
//	defer host.Close()
//	err = host.Do(func() error { ... }) // in that namespace
//
// Tests: mesh/vxlan, mesh/life_test.go
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Protocol marks our routes in `ip route` (proto 178), beside those of the kernel and of daemons.
const Protocol = 178

// Host is the network namespace that Open was called in.
type Host struct {
	*netlink.Handle
	ns netns.NsHandle
}

// Open takes hold of the calling thread's network namespace.
func Open() (*Host, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return &Host{Handle: h, ns: ns}, nil
}

// Close lets go of it.
func (h *Host) Close() {
	h.Handle.Close()
	h.ns.Close()
}

// Do runs f in the host's namespace. In the agent that is where every thread is; in tests of several
// hosts it is not.
func (h *Host) Do(f func() error) error {
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer here.Close()
	if here.Equal(h.ns) {
		return f()
	}
	return h.enter(f)
}

func (h *Host) enter(f func() error) error {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer here.Close()
	if err := netns.Set(h.ns); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the host's network namespace: %w", err)
	}
	err = f()
	if back := netns.Set(here); back != nil {
		return errors.Join(err, back) // the thread stays locked and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// CameUp tells that a link came up or got an IPv4 address, by the route to its network that the kernel makes then, or the daemon that
// looks after the link, until done is closed. Then, and when the kernel has more to tell than was listened to, the channel is closed.
// Pods' links have no such routes.
func (h *Host) CameUp(done <-chan struct{}) (<-chan struct{}, error) {
	updates, out := make(chan netlink.RouteUpdate), make(chan struct{}, 1)
	if err := netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{Namespace: &h.ns}); err != nil {
		return nil, fmt.Errorf("listen for links that come up: %w", err)
	}
	go func() { // ends with updates, which is closed with the socket
		defer close(out)
		for u := range updates {
			if u.Type != unix.RTM_NEWROUTE || u.Family != unix.AF_INET || u.Table != unix.RT_TABLE_MAIN || u.Scope != netlink.SCOPE_LINK || u.Protocol == Protocol {
				continue
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

// Sysctl sets a network parameter of the host's namespace, named below /proc/sys/net, unless it has
// the value. A parameter that this kernel does not have is no error: it has nothing to switch off.
func (h *Host) Sysctl(name, value string) error {
	return h.Do(func() error { return Sysctl(name, value) })
}

// Sysctl is Host.Sysctl for the calling thread's namespace.
func Sysctl(name, value string) error {
	path := filepath.Join("/proc/sys/net", name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && strings.Join(strings.Fields(string(b)), " ") == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set net.%s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// AtLeast raises a numeric parameter that is lower.
func (h *Host) AtLeast(name string, n int) error {
	return h.Do(func() error {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if have, aerr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && aerr == nil && have >= n {
			return nil
		}
		return Sysctl(name, strconv.Itoa(n))
	})
}

// Explain adds to an error what a kernel without a feature should be given.
func Explain(err error, feature, remedy string) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("this kernel has no %s: %s: %w", feature, remedy, err)
	}
	return err
}

// Find looks for a link; nil means that there is none.
func (h *Host) Find(name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for link %s: %w", name, err)
	}
	return l, nil
}

// Make makes a link and finds it as the kernel has it.
func (h *Host) Make(l netlink.Link) (netlink.Link, error) {
	if err := h.LinkAdd(l); err != nil {
		return nil, err
	}
	made, err := h.Find(l.Attrs().Name)
	if made == nil && err == nil {
		err = errors.New("it is gone again")
	}
	return made, err
}

// SetUp gives a link of ours its address and its MTU, and brings it up. Before that IPv6 is switched
// off: an address of its own would announce itself and mean nothing.
func (h *Host) SetUp(l netlink.Link, mac net.HardwareAddr, mtu int) error {
	a := l.Attrs()
	var errs []error
	if a.HardwareAddr.String() != mac.String() {
		errs = append(errs, h.LinkSetHardwareAddr(l, mac))
	}
	if a.MTU != mtu {
		errs = append(errs, h.LinkSetMTU(l, mtu))
	}
	if a.Flags&net.FlagUp == 0 {
		errs = append(errs, h.Sysctl("ipv6/conf/"+a.Name+"/disable_ipv6", "1"), h.LinkSetUp(l))
	}
	return errors.Join(errs...)
}

// Remove deletes a link if there is one.
func (h *Host) Remove(name string) error {
	l, err := h.Find(name)
	if err != nil || l == nil {
		return err
	}
	if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// MAC makes a locally administered address from bytes that name its holder.
func MAC(b []byte) net.HardwareAddr {
	m := make(net.HardwareAddr, 6)
	copy(m, b)
	m[0] = m[0]&^1 | 2
	return m
}
