package services

import (
	"net/netip"
	"slices"
	"strconv"

	"bramble.dev/mesh/nft"
)

// front leads one front to its endpoints. With inside given (traffic policy Local seen from outside)
// pods and this host use those, everybody else the endpoints eps of this node. Without any endpoint
// the front is closed: refused, so that clients know at once, or dropped where another node may answer.
func (p *port) front(f front, inside, eps []netip.AddrPort, refuse bool) {
	if p.proto == nft.UDP {
		p.udp[f.at] = slices.Concat(inside, eps)
	}
	if len(eps) == 0 && len(inside) == 0 {
		v := nft.Value{Drop: true}
		if refuse {
			v = nft.Value{Goto: "refuse"}
		}
		p.add(f.closed, nft.Element{Key: f.key, Value: v, Comment: p.label})
		return
	}
	to := ""
	if len(inside) > 0 {
		to = p.split(f, p.balance(f, "", inside), p.balance(f, "-local", eps))
	} else {
		to = p.balance(f, "", eps)
	}
	if f.guarded {
		to = p.guard(f, to)
	}
	p.add(f.dispatch, nft.Element{Key: f.key, Value: nft.Value{Goto: to}, Comment: p.label})
}

// balance returns the chain that picks one of the endpoints, "" for none.
func (p *port) balance(f front, list string, eps []netip.AddrPort) string {
	if len(eps) == 0 {
		return ""
	}
	if p.affine > 0 {
		return p.affinity(list, eps)
	}
	name := f.kind + list
	chains := make([]string, len(eps))
	for i, e := range eps {
		slot := name + "-" + strconv.Itoa(i)
		s := nft.Set{Name: slot, Key: f.keyTypes, Data: target}
		p.add(s, nft.Element{Key: f.key, Value: nft.Value{Data: nft.MakeKey(e.Addr(), e.Port())}})
		rule := func(slot string) nft.Rule {
			return p.commonRule(slot, func() nft.Rule { return nft.New().DNATMap(slot, f.keyFields...) })
		}
		if i == 0 {
			p.chain(slot, rule(slot))
		} else { // the slot may have gone since the packet was sent here; the first is there as long as any
			p.chain(slot, rule(slot), rule(name+"-0"))
		}
		chains[i] = slot
	}
	if len(eps) == 1 {
		return chains[0]
	}
	return p.spread(name, chains)
}

// once adds a chain unless this Service has it already.
func (p *piece) once(name string, rules func() []nft.Rule) {
	if _, ok := p.chains[name]; !ok {
		p.chain(name, rules()...)
	}
}

// spread picks one of the chains, or the first: the kernel empties a choice that it takes away before the last packet has
// made it.
func (p *port) spread(name string, chains []string) string {
	name += "/" + strconv.Itoa(len(chains))
	p.chain(name, p.commonRule(name, func() nft.Rule { return nft.New().Spread(chains) }), p.commonRule("goto "+chains[0], func() nft.Rule { return nft.New().Goto(chains[0]) }))
	return name
}

func (pl planner) commonRule(name string, build func() nft.Rule) nft.Rule {
	r, ok := pl.common[name]
	if !ok {
		r = build()
		pl.common[name] = r
	}
	return r
}

// split lets pods and this host go one way and everybody else another ("" drops).
func (p *port) split(f front, near, far string) string {
	name := "from-outside/" + near
	switch {
	case far != "" && p.affine > 0:
		name += "/local" // both names in full would be longer than the kernel takes
	case far != "":
		name += "/" + far
	}
	p.once(name, func() []nft.Rule {
		rules := []nft.Rule{nft.New().Saddr(p.cluster).Goto(near), nft.New().FromLocal().Goto(near)}
		if far == "" {
			return append(rules, nft.New().Drop())
		}
		return append(rules, nft.New().Goto(far))
	})
	return name
}

// guard lets only a load balancer's source ranges through.
func (p *port) guard(f front, to string) string {
	name := "sources/" + p.name + "/" + f.nameInChains
	var rules []nft.Rule
	for _, s := range f.sources {
		if s.Bits() == 0 {
			rules = append(rules, nft.New().Goto(to))
			continue
		}
		rules = append(rules, nft.New().Saddr(s).Goto(to))
	}
	p.chain(name, append(rules, nft.New().Drop())...)
	return name
}

// affinity keeps a client at the endpoint that it had: one set of clients for each endpoint, which
// goes together with the endpoint.
func (p *port) affinity(list string, eps []netip.AddrPort) string {
	var known []nft.Rule
	chains := make([]string, len(eps))
	for i, e := range eps {
		name := "endpoint/" + p.name + "/" + e.Addr().String() + "/" + strconv.Itoa(int(e.Port()))
		clients := nft.Set{Name: "clients/" + name[len("endpoint/"):] + "/" + p.affine.String(), Key: []nft.Type{nft.Addr}, Dynamic: true, Timeout: p.affine}
		p.set(clients)
		p.chain(name,
			nft.New().Remember(clients.Name),
			nft.New().L4Proto(p.proto).DNAT(e),
		)
		known = append(known, nft.New().In(clients.Name, nft.Saddr).Goto(name))
		chains[i] = name
	}
	name := "service" + list + "/" + p.name // ends like spread, with one that does not depend on the slots
	p.chain(name, append(known, nft.New().Spread(chains), nft.New().Goto(slices.Min(chains)))...)
	return name
}
