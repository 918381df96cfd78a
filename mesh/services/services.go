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
	mu       sync.Mutex
	kept     nft.Kept
	state    *state
	catalog  *catalog.Catalog
	memories map[owner]memory
	planner  planner
	fixed    Config // the last configuration without its lists
	pods     []Pod
	peers    []netip.Addr
}

// Open makes a Proxy. It changes nothing: the table of an earlier process serves until the first Set.
func Open(kernel nft.Kernel, o Options) *Proxy {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Proxy{
		Options: o, state: newState(), catalog: catalog.New(), memories: map[owner]memory{},
		kept: nft.Kept{Kernel: kernel, Table: o.Table, What: "service rules", Logger: o.Logger,
			Needs: "CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, _MASQ, _CT, _FIB_INET, _NUMGEN, _REJECT_INET"},
	}
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
	err := p.kept.Commit(func() (made, ops []nft.Op) { return p.state.ops(p.Table, ch) }, p.load)
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

// load is the transaction that makes the whole table.
func (p *Proxy) load(there bool) []nft.Op {
	ops := p.state.load(p.Table)
	if there {
		clients, err := p.clients()
		if err != nil {
			p.Logger.Warn("clients lose their session affinity", "table", p.Table, "err", err)
		}
		ops = append(ops, clients...)
	}
	return ops
}

// clients carries over who had been sent where, from the table that is replaced.
func (p *Proxy) clients() ([]nft.Op, error) {
	names, err := p.kept.Kernel.Sets(p.Table)
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
		es, err := p.kept.Kernel.Elements(p.Table, name)
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
	p.fixed = Config{}
	return p.kept.Remove()
}
