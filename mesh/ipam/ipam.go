// Package ipam hands out a node's pod addresses, so that no two pods ever have one at once, whoever
// is killed when.
//
// A lease is a file: whole before its address is known to anybody, so that no death of the agent
// matters, and on disk when Sync returns, so that after a power cut pods get the addresses that the
// other nodes know. Nothing is written at any other time. An address that is free again is taken last: packets and names of its former holder
// are still about. The invariant: a lease that was synced is there after any crash until
// Release, and no address is in two leases.
//
//	pool, err := ipam.Open(dir)
//	lease, err := pool.Reserve(uid, podCIDR, nil) // the same lease each time
//	err = pool.Sync(uid)                          // before the address is told to others
//	err = pool.Release(uid)
package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"bramble.dev/internal/durable"
)

// ErrFull means that the node's subnet has no free address.
var ErrFull = errors.New("no free address in the node's pod subnet")

// Lease is an address and whose it is.
type Lease struct {
	ID   string          `json:"id"`
	IP   netip.Addr      `json:"ip"`
	Note json.RawMessage `json:"note,omitempty"` // the caller's
}

// Pool holds the leases of a node.
type Pool struct {
	dir    string
	mu     sync.Mutex
	leases map[string]Lease
	used   map[netip.Addr]string
	last   netip.Addr      // handed out
	freed  []netip.Addr    // by this process, the one that is free for the longest time first
	cached map[string]bool // leases that are written but not synced
}

// cursor is the file that remembers the last address handed out. It is written without a sync: what
// a crash loses is only the order in which free addresses are taken.
const cursor = "last"

// Open reads the leases in a folder of its own, which it makes. What an interrupted write left there
// is removed.
func Open(dir string) (*Pool, error) {
	if err := os.MkdirAll(filepath.Join(dir, "leases"), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of address leases: %w", err)
	}
	p := &Pool{dir: dir, leases: map[string]Lease{}, used: map[netip.Addr]string{}, cached: map[string]bool{}}
	entries, err := os.ReadDir(p.path(""))
	if err != nil {
		return nil, fmt.Errorf("list address leases: %w", err)
	}
	for _, e := range entries {
		if err := p.read(e.Name()); err != nil {
			return nil, err
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, cursor)); err == nil {
		p.last, _ = netip.ParseAddr(strings.TrimSpace(string(b)))
	}
	return p, nil
}

func (p *Pool) path(name string) string { return filepath.Join(p.dir, "leases", name) }

// read takes in one file. What is not a whole lease was never handed out, because a lease is renamed
// into place when it is whole.
func (p *Pool) read(name string) error {
	b, err := os.ReadFile(p.path(name))
	if err != nil {
		return fmt.Errorf("read address lease %s: %w", name, err)
	}
	var l Lease
	if json.Unmarshal(b, &l) != nil || l.ID != name || !l.IP.IsValid() || p.used[l.IP] != "" {
		if err := os.Remove(p.path(name)); err != nil {
			return fmt.Errorf("remove broken address lease %s: %w", name, err)
		}
		return nil
	}
	p.leases[name] = l
	p.used[l.IP] = name
	return nil
}

// Gateway is the address of a subnet that the node itself has: the first one.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Get finds a lease.
func (p *Pool) Get(id string) (Lease, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.leases[id]
	return l, ok
}

// List gives all leases, ordered by address.
func (p *Pool) List() []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Lease, 0, len(p.leases))
	for _, l := range p.leases {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Lease) int { return a.IP.Compare(b.IP) })
	return out
}

// Reserve gives the lease of id, a new one from the subnet if it has none. The note is that of the first call. The lease
// outlives the agent, but a power cut only after Sync, which takes a disk's time, in which the pod's links can be made.
func (p *Pool) Reserve(id string, subnet netip.Prefix, note json.RawMessage) (Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := p.leases[id]; ok {
		return l, nil
	}
	if id == "" || strings.ContainsAny(id, "/\x00") || strings.HasPrefix(id, ".") {
		return Lease{}, fmt.Errorf("allocate an address: %q cannot be the name of a file", id)
	}
	ip, err := p.next(subnet)
	if err != nil {
		return Lease{}, fmt.Errorf("allocate an address in %s: %w", subnet, err)
	}
	l := Lease{ID: id, IP: ip, Note: note}
	b, err := json.Marshal(l)
	if err != nil {
		return Lease{}, fmt.Errorf("allocate an address: %w", err)
	}
	if err := writeWhole(p.path(id), b); err != nil {
		return Lease{}, fmt.Errorf("record the address of %s: %w", id, err)
	}
	p.cached[id] = true
	p.leases[id], p.used[ip], p.last = l, id, ip
	p.freed = slices.DeleteFunc(p.freed, func(a netip.Addr) bool { return a == ip })
	_ = os.WriteFile(filepath.Join(p.dir, cursor), []byte(ip.String()+"\n"), 0o600)
	return l, nil
}

// Sync waits until a lease that this process made is on disk.
func (p *Pool) Sync(id string) error {
	p.mu.Lock()
	cached := p.cached[id]
	p.mu.Unlock()
	if !cached {
		return nil
	}
	if err := errors.Join(durable.SyncFile(p.path(id)), durable.SyncDir(p.path(""))); err != nil {
		return fmt.Errorf("record the address of %s: %w", id, err)
	}
	p.mu.Lock()
	delete(p.cached, id)
	p.mu.Unlock()
	return nil
}

// Release frees an address. A crash right after it may bring the lease back; its holder's absence is
// then noticed by whoever compares List with what runs.
func (p *Pool) Release(id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.leases[id]
	if !ok {
		return nil
	}
	if err := os.Remove(p.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release the address of %s: %w", id, err)
	}
	delete(p.leases, id)
	delete(p.cached, id)
	delete(p.used, l.IP)
	p.freed = append(p.freed, l.IP)
	return nil
}

// next chooses an address: one that this process has not freed, and only then the one that is free for
// the longest time.
func (p *Pool) next(subnet netip.Prefix) (netip.Addr, error) {
	ip, err := next(subnet, p.last, func(a netip.Addr) bool { return p.used[a] != "" || slices.Contains(p.freed, a) })
	if !errors.Is(err, ErrFull) {
		return ip, err
	}
	for _, a := range p.freed {
		if subnet.Contains(a) {
			return a, nil
		}
	}
	return netip.Addr{}, ErrFull
}

// next is the first free address after last, going round. The first address of a subnet names it, the
// second is the gateway's, the last one is for broadcasts.
func next(subnet netip.Prefix, last netip.Addr, used func(netip.Addr) bool) (netip.Addr, error) {
	subnet = subnet.Masked()
	if !subnet.IsValid() || !subnet.Addr().Is4() || subnet.Bits() > 29 {
		return netip.Addr{}, fmt.Errorf("%q is not an IPv4 subnet with room for pods", subnet)
	}
	first := Gateway(subnet).Next()
	at := first
	if subnet.Contains(last) {
		at = last.Next()
	}
	for range 1 << (32 - subnet.Bits()) {
		if at.Less(first) || !subnet.Contains(at.Next()) { // beyond the end, or the broadcast address
			at = first
		}
		if !used(at) {
			return at, nil
		}
		at = at.Next()
	}
	return netip.Addr{}, ErrFull
}

// writeWhole makes a file that nobody ever sees half of. The temporary name begins with a dot, which
// no lease's does. After a power cut it may be empty until it was synced; Open removes it then.
func writeWhole(path string, b []byte) error {
	dir, name := filepath.Split(path)
	tmp := filepath.Join(dir, "."+name)
	err := os.WriteFile(tmp, b, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
	}
	return err
}
