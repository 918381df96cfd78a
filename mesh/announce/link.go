package announce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wire is a link on which addresses are announced.
type wire struct {
	index int
	name  string
	mac   net.HardwareAddr
	file  *os.File
	done  sync.WaitGroup
}

// network is the host's links that an address may be on.
type network struct {
	prefix netip.Prefix
	link   net.Interface
}

// networks lists them. It runs in the host's namespace.
func networks() ([]network, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []network
	for _, l := range links {
		if l.Flags&net.FlagUp == 0 || l.Flags&net.FlagLoopback != 0 || len(l.HardwareAddr) != 6 {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		for _, x := range addrs {
			if n, ok := x.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(n.IP)
				if ones, _ := n.Mask.Size(); ip.Unmap().Is4() && ones < 32 {
					out = append(out, network{netip.PrefixFrom(ip.Unmap(), ones).Masked(), l})
				}
			}
		}
	}
	return out, nil
}

// openWire opens a link for ARP. It runs in the host's namespace.
func openWire(l net.Interface) (*wire, error) {
	const proto = unix.ETH_P_ARP<<8 | unix.ETH_P_ARP>>8 // in the network's order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto&0xffff)
	if err != nil {
		return nil, fmt.Errorf("open %s for ARP: %w", l.Name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto & 0xffff, Ifindex: l.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open %s for ARP: %w", l.Name, err)
	}
	return &wire{index: l.Index, name: l.Name, mac: l.HardwareAddr, file: os.NewFile(uintptr(fd), "arp-"+l.Name)}, nil
}

func (w *wire) send(frames ...[]byte) error {
	for _, f := range frames {
		if _, err := w.file.Write(f); err != nil {
			return fmt.Errorf("send on %s: %w", w.name, err)
		}
	}
	return nil
}

// listen hands every packet of ARP to do, until the wire is closed.
func (w *wire) listen(do func(arp)) {
	w.done.Go(func() {
		buf := make([]byte, 256)
		for {
			n, err := w.file.Read(buf)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil { // the link is down, and may come up again
				time.Sleep(interval / 4)
				continue
			}
			if p, ok := decodeARP(buf[:n]); ok {
				do(p)
			}
		}
	})
}

func (w *wire) close() {
	w.file.Close()
	w.done.Wait()
}
