package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bramble.dev/mesh/catalog"
	"bramble.dev/mesh/nft"
)

// Options are fixed for a Proxy's life.
type Options struct {
	Table     string // the nftables table, of the family inet
	Logger    *slog.Logger
	Conntrack Conntrack // forgets flows to endpoints that are gone; nil: nothing is forgotten
}

// Proxy keeps the table.
type Proxy struct {
	Options
	kernel nft.Kernel

	mu       sync.Mutex
	state    *state
	catalog  *catalog.Catalog
	memories map[owner]memory
	planner  planner
	fixed    Config // the last configuration without its lists
	pods     []Pod
	peers    []netip.Addr
	handle   uint64 // of the table in the kernel; 0: unknown
}

// Open makes a Proxy. It changes nothing: the table of an earlier process serves until the first Set.
func Open(kernel nft.Kernel, o Options) *Proxy {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Proxy{Options: o, kernel: kernel, state: newState(), catalog: catalog.New(), memories: map[owner]memory{}}
}

// Set makes the table what the configuration says.
func (p *Proxy) Set(ctx context.Context, c Config) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	ch, flows := newChange(), newFlows()
	p.apply(ch, flows, c)
	err := p.commit(ch)
	if err == nil && !flows.empty() && p.Conntrack != nil {
		if cerr := p.Conntrack.Forget(flows.stale); cerr != nil {
			err = fmt.Errorf("forget flows to endpoints that are gone: %w", cerr)
		}
	}
	return err
}

// apply brings the wanted state up to date.
func (p *Proxy) apply(ch *change, flows *flows, c Config) {
	fixed := c
	fixed.Services, fixed.Endpoints, fixed.Pods, fixed.Peers = nil, nil, nil, nil
	changed := p.catalog.Update(c.Services, c.Endpoints)
	if !reflect.DeepEqual(fixed, p.fixed) {
		p.fixed = fixed
		p.state.replace(ch, owner{}, base(c))
		pl := planner{cluster: c.Cluster.Masked(), here: place{c.Node, c.Zone}, common: map[string]nft.Rule{}}
		if pl.cluster != p.planner.cluster || pl.here != p.planner.here {
			p.planner = pl
			changed = p.catalog.Keys()
			for o := range p.memories { // what is gone since
				if _, ok := p.catalog.Get(o); !ok {
					changed = append(changed, o)
				}
			}
		}
	}
	if !slices.Equal(c.Peers, p.peers) {
		p.peers = slices.Clone(c.Peers)
		p.state.replace(ch, owner{Name: "peers"}, tunnelPeers(c.Peers))
	}
	if !reflect.DeepEqual(c.Pods, p.pods) {
		flows.pods(p.pods, c.Pods)
		p.pods = slices.Clone(c.Pods)
		p.state.replace(ch, owner{Name: "pods"}, pods(c.Pods))
	}
	for _, k := range changed {
		before := p.memories[k]
		e, ok := p.catalog.Get(k)
		if !ok {
			p.state.replace(ch, k, nil)
			delete(p.memories, k)
			flows.compare(before.udp, nil)
			continue
		}
		piece, now := p.planner.plan(e, before)
		if len(piece.elements) == 0 {
			piece = nil
		}
		p.state.replace(ch, k, piece)
		p.memories[k] = now
		flows.compare(before.udp, now.udp)
	}
}

// commit brings the kernel up to date: with the difference when it holds what we left there, with
// everything when it does not (another process's table after a restart, a `flush ruleset`).
func (p *Proxy) commit(ch *change) error {
	handle, ok, err := p.kernel.TableHandle(p.Table)
	if err != nil {
		return err
	}
	if ok && handle == p.handle && p.handle != 0 {
		made, ops := p.state.ops(p.Table, ch)
		err := nft.Switch(p.kernel, made, ops)
		if err == nil {
			return nil
		}
		p.Logger.Error("the service rules in the kernel are not what they were, loading them anew", "table", p.Table, "err", err)
	} else if p.handle != 0 {
		p.Logger.Warn("somebody removed the service rules, loading them anew", "table", p.Table)
	}
	return p.load(ok)
}

func (p *Proxy) load(replace bool) error {
	p.handle = 0
	ops := p.state.load(p.Table)
	if replace {
		clients, err := p.clients()
		if err != nil {
			p.Logger.Warn("clients lose their session affinity", "table", p.Table, "err", err)
		}
		ops = append(ops, clients...)
	}
	err := p.kernel.Apply(ops)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		err = fmt.Errorf("this kernel lacks a part of nftables (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, _MASQ, _CT, _FIB_INET, _NUMGEN, _REJECT_INET): %w", err)
	}
	if err != nil {
		return fmt.Errorf("load service rules into table %s: %w", p.Table, err)
	}
	handle, ok, err := p.kernel.TableHandle(p.Table)
	if err == nil && !ok {
		err = errors.New("it is gone again")
	}
	if err != nil {
		return fmt.Errorf("look at table %s: %w", p.Table, err)
	}
	p.handle = handle
	return nil
}

// clients carries over who had been sent where, from the table that is replaced.
func (p *Proxy) clients() ([]nft.Op, error) {
	names, err := p.kernel.Sets(p.Table)
	if err != nil {
		return nil, err
	}
	var ops []nft.Op
	var errs []error
	for _, name := range names {
		s, ok := p.state.sets[name]
		if !ok || !strings.HasPrefix(name, "clients/") {
			continue
		}
		es, err := p.kernel.Elements(p.Table, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if len(es) > 0 {
			ops = append(ops, nft.AddElements{Table: p.Table, Set: s.v, Elements: es})
		}
	}
	return ops, errors.Join(errs...)
}

// Teardown removes the table.
func (p *Proxy) Teardown(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handle, p.fixed = 0, Config{}
	if err := p.kernel.Apply([]nft.Op{nft.AddTable{Table: p.Table}, nft.DeleteTable{Table: p.Table}}); err != nil {
		return fmt.Errorf("remove table %s: %w", p.Table, err)
	}
	return nil
}
