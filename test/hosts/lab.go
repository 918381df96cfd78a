// Package hosts makes test hosts: each has its own network, mounts, processes, IPC, host name and cgroups, its own data
// folder, and one network interface on a switch that joins them all. They share the kernel and the link, nothing else.
//
// Everything ends with the process that made it, however that ends: the hosts are namespaces whose first process
// watches its standard input. Close also removes the folders and cgroups; those that a killed test left are removed
// by the next.
//
//	lab, err := hosts.New(hosts.Options{Hosts: 3})
//	defer lab.Close()
//	out, err := lab.Hosts[0].Run(ctx, "ip", "address")
//
// The root namespace reaches the hosts through an interface on the same switch.
package hosts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
)

// DataDir is where each host sees its own data folder: the same path on all, as on real boards.
const DataDir = "/var/lib/bramble"

const labPrefix = "bramble-lab-"

// Options of a lab.
type Options struct {
	Hosts int
	Dir   string // for the hosts' folders; default under /var/tmp
	Keep  bool   // leave the folders behind, to look at them
}

// Lab is a few hosts on one switch.
type Lab struct {
	Hosts  []*Host
	Subnet netip.Prefix
	Root   netip.Addr // the address of the root namespace on the switch

	name   string
	number int32 // of this process's labs
	dir    string
	keep   bool
	bridge *namespace
	uplink string // interface in the root namespace
}

var labs atomic.Int32

// choosing a subnet lasts until its address is on an interface, where the next lab sees it.
var choosing sync.Mutex

// New makes the hosts, connected and empty.
func New(o Options) (*Lab, error) {
	sweepCgroups()
	number := labs.Add(1)
	name := fmt.Sprintf("%s%d-%d", labPrefix, os.Getpid(), number)
	if o.Dir == "" {
		o.Dir = filepath.Join("/var/tmp", name)
	}
	l := &Lab{name: name, number: number, dir: o.Dir, keep: o.Keep}
	if err := l.build(o.Hosts); err != nil {
		return nil, errors.Join(fmt.Errorf("make the test hosts: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build(count int) error {
	if err := l.makeSwitch(); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	for i := 1; i <= count; i++ {
		h, err := l.addHost(i)
		if err != nil {
			return fmt.Errorf("host %d: %w", i, err)
		}
		l.Hosts = append(l.Hosts, h)
	}
	return nil
}

// Dir is where the hosts' folders and logs are.
func (l *Lab) Dir() string { return l.dir }

// Close ends every process of every host and removes what they left on disk.
func (l *Lab) Close() error {
	var errs []error
	for _, h := range l.Hosts {
		h.ns.close()
	}
	if l.bridge != nil {
		l.bridge.close()
	}
	// The interface in the root namespace goes with its peer, but not at once.
	if l.uplink != "" {
		if link, err := netlink.LinkByName(l.uplink); err == nil {
			_ = netlink.LinkDel(link)
		}
	}
	errs = append(errs, removeCgroups(l.name))
	if !l.keep {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// makeSwitch makes the namespace that holds the bridge, and the interface through which this process reaches it.
func (l *Lab) makeSwitch() error {
	choosing.Lock()
	defer choosing.Unlock()
	subnet, err := freeSubnet()
	if err != nil {
		return err
	}
	l.Subnet = subnet
	ns, err := newNamespace("-", "", "")
	if err != nil {
		return err
	}
	l.bridge = ns
	h := ns.netlink
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", MTU: 1500}}
	if err := h.LinkAdd(br); err != nil {
		return fmt.Errorf("add the bridge: %w", err)
	}
	if err := h.LinkSetUp(br); err != nil {
		return fmt.Errorf("set the bridge up: %w", err)
	}
	l.Root = nth(l.Subnet, 254)
	l.uplink = fmt.Sprintf("lab%d-%d", os.Getpid(), l.number)
	here, err := rootNamespace()
	if err != nil {
		return err
	}
	return l.plug("root", here, l.uplink, l.Root)
}

// plug joins an interface called name, in the namespace of handle, to the switch by a port.
func (l *Lab) plug(port string, inside namespaceHandle, name string, ip netip.Addr) error {
	sw := l.bridge.netlink
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MTU: 1500},
		PeerName:  name, PeerNamespace: netlink.NsFd(inside.fd),
	}
	if err := sw.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the port %s: %w", port, err)
	}
	p, err := sw.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find the port %s: %w", port, err)
	}
	br, err := sw.LinkByName("br0")
	if err != nil {
		return err
	}
	if err := sw.LinkSetMaster(p, br); err != nil {
		return fmt.Errorf("put the port %s on the bridge: %w", port, err)
	}
	if err := sw.LinkSetUp(p); err != nil {
		return fmt.Errorf("set the port %s up: %w", port, err)
	}
	return inside.configure(name, netip.PrefixFrom(ip, l.Subnet.Bits()))
}

// Pool is a range of n addresses (up to 14) of the lab's network that no host has, as `--load-balancer-pool` takes it.
func (l *Lab) Pool(n int) string {
	return fmt.Sprintf("%s-%s", nth(l.Subnet, 240), nth(l.Subnet, byte(239+n)))
}

// freeSubnet finds a /24 that no interface of this machine uses, so that several labs run beside each other.
func freeSubnet() (netip.Prefix, error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list this machine's addresses: %w", err)
	}
	start := int(time.Now().UnixNano()/1000) ^ os.Getpid()
	for i := range 200 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 231, byte(10 + (start+i)%200), 0}), 24)
		if !overlaps(p, used) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("no free subnet in 10.231.0.0/16")
}

func overlaps(p netip.Prefix, used []net.Addr) bool {
	for _, a := range used {
		if q, err := netip.ParsePrefix(a.String()); err == nil && q.Masked().Overlaps(p) {
			return true
		}
	}
	return false
}

func nth(p netip.Prefix, n byte) netip.Addr {
	a := p.Addr().As4()
	a[3] = n
	return netip.AddrFrom4(a)
}
