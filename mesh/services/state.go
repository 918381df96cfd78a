package services

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"bramble.dev/mesh/catalog"
	"bramble.dev/mesh/nft"
)

// owner names who wants a piece of the table: a Service, or "" for what is always there.
type owner = catalog.Key

// elementID names an element.
type elementID struct {
	set string
	key nft.Key
}

// chain is a chain's content.
type chain struct {
	base  *nft.Base
	rules []nft.Rule
}

func (c chain) equal(d chain) bool {
	return slices.EqualFunc(c.rules, d.rules, func(a, b nft.Rule) bool { return a.Text == b.Text })
}

// piece is what one owner wants to be in the table. A set or chain may be wanted by several; those who
// do want the same content.
type piece struct {
	sets     map[string]nft.Set
	chains   map[string]chain
	elements map[elementID]nft.Element
}

func newPiece() *piece {
	return &piece{sets: map[string]nft.Set{}, chains: map[string]chain{}, elements: map[elementID]nft.Element{}}
}

func (p *piece) set(s nft.Set) { p.sets[s.Name] = s }

func (p *piece) chain(name string, rules ...nft.Rule) { p.chains[name] = chain{rules: rules} }

func (p *piece) add(s nft.Set, e nft.Element) {
	p.set(s)
	p.elements[elementID{s.Name, e.Key}] = e
}

type counted[T any] struct {
	n int
	v T
}

type claim struct {
	owner owner
	e     nft.Element
}

// state is the table as it should be: the sum of all pieces. Where two owners want an element with
// one key (two Services that claim one external address), the first by name has it, and the other
// gets it when the first goes.
type state struct {
	pieces   map[owner]*piece
	sets     map[string]counted[nft.Set]
	chains   map[string]counted[chain]
	elements map[elementID]claim
	rivals   map[elementID][]claim // the claims beyond the first, in order
}

func newState() *state {
	return &state{
		pieces: map[owner]*piece{}, sets: map[string]counted[nft.Set]{}, chains: map[string]counted[chain]{},
		elements: map[elementID]claim{}, rivals: map[elementID][]claim{},
	}
}

// change collects what the replacement of pieces touched, as it was before.
type change struct {
	sets     map[string]*nft.Set
	chains   map[string]*chain
	elements map[elementID]*nft.Element
}

func newChange() *change {
	return &change{sets: map[string]*nft.Set{}, chains: map[string]*chain{}, elements: map[elementID]*nft.Element{}}
}

func (s *state) touchSet(c *change, name string) {
	if _, ok := c.sets[name]; !ok {
		c.sets[name] = nil
		if v, ok := s.sets[name]; ok {
			c.sets[name] = &v.v
		}
	}
}

func (s *state) touchChain(c *change, name string) {
	if _, ok := c.chains[name]; !ok {
		c.chains[name] = nil
		if v, ok := s.chains[name]; ok {
			c.chains[name] = &v.v
		}
	}
}

func (s *state) touchElement(c *change, id elementID) {
	if _, ok := c.elements[id]; !ok {
		c.elements[id] = nil
		if v, ok := s.elements[id]; ok {
			c.elements[id] = &v.e
		}
	}
}

// replace puts an owner's new piece (nil: none) in the place of its old one.
func (s *state) replace(c *change, o owner, next *piece) {
	if old := s.pieces[o]; old != nil {
		for name := range old.sets {
			s.touchSet(c, name)
			release(s.sets, name)
		}
		for name := range old.chains {
			s.touchChain(c, name)
			release(s.chains, name)
		}
		for id, e := range old.elements {
			if next != nil {
				if n, ok := next.elements[id]; ok && n == e {
					continue // the same: neither touched nor copied
				}
			}
			s.touchElement(c, id)
			s.disclaim(o, id)
		}
	}
	delete(s.pieces, o)
	if next == nil {
		return
	}
	for name, v := range next.sets {
		s.touchSet(c, name)
		s.sets[name] = counted[nft.Set]{s.sets[name].n + 1, v}
	}
	for name, v := range next.chains {
		s.touchChain(c, name)
		s.chains[name] = counted[chain]{s.chains[name].n + 1, v}
	}
	for id, e := range next.elements {
		s.touchElement(c, id)
		s.claim(o, id, e)
	}
	s.pieces[o] = next
}

func release[T any](m map[string]counted[T], name string) {
	v := m[name]
	if v.n--; v.n <= 0 {
		delete(m, name)
		return
	}
	m[name] = v
}

func (s *state) claim(o owner, id elementID, e nft.Element) {
	all := s.claims(id)
	if i := slices.IndexFunc(all, func(c claim) bool { return c.owner == o }); i >= 0 {
		all[i].e = e
	} else {
		all = append(all, claim{o, e})
		slices.SortFunc(all, func(a, b claim) int { return catalog.Compare(a.owner, b.owner) })
	}
	s.setClaims(id, all)
}

func (s *state) disclaim(o owner, id elementID) {
	s.setClaims(id, slices.DeleteFunc(s.claims(id), func(c claim) bool { return c.owner == o }))
}

func (s *state) claims(id elementID) []claim {
	first, ok := s.elements[id]
	if !ok {
		return nil
	}
	return append([]claim{first}, s.rivals[id]...)
}

func (s *state) setClaims(id elementID, all []claim) {
	delete(s.rivals, id)
	if len(all) == 0 {
		delete(s.elements, id)
		return
	}
	s.elements[id] = all[0]
	if len(all) > 1 {
		s.rivals[id] = all[1:]
	}
}

// ops turns a change into what is made for it and the transaction that leads there (see nft.Switch), in the one order that
// the kernel takes: names are made before they are used and removed after the last use, an element goes before its
// successor comes.
func (s *state) ops(table string, c *change) (made, ops []nft.Op) {
	var make, fill, drop, rules, clear []nft.Op
	for _, name := range slices.Sorted(maps.Keys(c.sets)) {
		now, ok := s.sets[name]
		switch before := c.sets[name]; {
		case before == nil && ok:
			make = append(make, nft.AddSet{Table: table, Set: now.v})
		case before != nil && !ok:
			clear = append(clear, nft.DeleteSet{Table: table, Set: name})
		}
	}
	var gone []nft.Op
	for _, name := range slices.Sorted(maps.Keys(c.chains)) {
		now, ok := s.chains[name]
		before := c.chains[name]
		to := &rules
		switch {
		case before == nil && ok:
			make = append(make, nft.AddChain{Table: table, Chain: name, Base: now.v.base})
			to = &fill
		case before != nil && !ok:
			drop = append(drop, nft.FlushChain{Table: table, Chain: name})
			gone = append(gone, nft.DeleteChain{Table: table, Chain: name})
		case before != nil && !before.equal(now.v):
			rules = append(rules, nft.FlushChain{Table: table, Chain: name})
		default:
			continue
		}
		if ok {
			for _, r := range now.v.rules {
				*to = append(*to, nft.AddRule{Table: table, Chain: name, Rule: r})
			}
		}
	}
	remove, add := s.elementOps(table, c)
	return append(make, fill...), slices.Concat(remove, rules, add, drop, gone, clear)
}

func (s *state) elementOps(table string, c *change) (remove, add []nft.Op) {
	ids := slices.SortedFunc(maps.Keys(c.elements), func(a, b elementID) int {
		return cmp.Or(strings.Compare(a.set, b.set), strings.Compare(string(a.key), string(b.key)))
	})
	dels, adds := map[string][]nft.Element{}, map[string][]nft.Element{}
	for _, id := range ids {
		before := c.elements[id]
		now, ok := s.elements[id]
		if before != nil && ok && *before == now.e {
			continue
		}
		if before != nil {
			dels[id.set] = append(dels[id.set], *before)
		}
		if ok {
			adds[id.set] = append(adds[id.set], now.e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(dels)) {
		set := c.sets[name] // what is removed may be of a set that goes with it
		if set == nil {
			v := s.sets[name].v
			set = &v
		}
		remove = append(remove, nft.DeleteElements{Table: table, Set: *set, Elements: dels[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(adds)) {
		add = append(add, nft.AddElements{Table: table, Set: s.sets[name].v, Elements: adds[name]})
	}
	return remove, add
}

// load is the transaction that makes the whole table in an empty kernel, or in the place of another
// table of the name.
func (s *state) load(table string) []nft.Op {
	c := newChange()
	for name := range s.sets {
		c.sets[name] = nil
	}
	for name := range s.chains {
		c.chains[name] = nil
	}
	for id := range s.elements {
		c.elements[id] = nil
	}
	head := []nft.Op{nft.AddTable{Table: table}, nft.DeleteTable{Table: table}, nft.AddTable{Table: table}}
	made, ops := s.ops(table, c)
	return slices.Concat(head, made, ops)
}
