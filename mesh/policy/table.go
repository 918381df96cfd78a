package policy

import (
	"maps"
	"slices"
	"strings"

	"bramble.dev/mesh/nft"
)

// table is the content of the nftables table.
type table struct {
	sets     map[string]nft.Set
	chains   map[string]chain
	elements map[string]map[nft.Key]nft.Element // by set
}

type chain struct {
	base  *nft.Base
	rules []nft.Rule
}

func (c chain) equal(d chain) bool {
	return slices.EqualFunc(c.rules, d.rules, func(a, b nft.Rule) bool { return a.Text == b.Text })
}

func newTable() *table {
	return &table{sets: map[string]nft.Set{}, chains: map[string]chain{}, elements: map[string]map[nft.Key]nft.Element{}}
}

func (t *table) set(s nft.Set) {
	t.sets[s.Name] = s
	if t.elements[s.Name] == nil {
		t.elements[s.Name] = map[nft.Key]nft.Element{}
	}
}

func (t *table) add(s nft.Set, e nft.Element) {
	t.set(s)
	t.elements[s.Name][e.Key] = e
}

func (t *table) chain(name string, rules ...nft.Rule) { t.chains[name] = chain{rules: rules} }

// difference is what is made for the way from one table to another and the transaction that leads there (see nft.Switch), in the
// one order that the kernel takes: names are made before they are used and removed after the last use, an element goes
// before its successor comes.
func difference(name string, before, now *table) (made, ops []nft.Op) {
	var make, fill, rules, drop, gone []nft.Op
	for _, s := range slices.Sorted(maps.Keys(now.sets)) {
		if _, ok := before.sets[s]; !ok {
			make = append(make, nft.AddSet{Table: name, Set: now.sets[s]})
		}
	}
	for _, c := range slices.Sorted(maps.Keys(now.chains)) {
		want := now.chains[c]
		had, ok := before.chains[c]
		to := &rules
		switch {
		case !ok:
			to = &fill
			make = append(make, nft.AddChain{Table: name, Chain: c, Base: want.base})
		case had.equal(want):
			continue
		default:
			rules = append(rules, nft.FlushChain{Table: name, Chain: c})
		}
		for _, r := range want.rules {
			*to = append(*to, nft.AddRule{Table: name, Chain: c, Rule: r})
		}
	}
	for _, c := range slices.Sorted(maps.Keys(before.chains)) {
		if _, ok := now.chains[c]; !ok {
			drop = append(drop, nft.FlushChain{Table: name, Chain: c})
			gone = append(gone, nft.DeleteChain{Table: name, Chain: c})
		}
	}
	remove, add := elementOps(name, before, now)
	for _, s := range slices.Sorted(maps.Keys(before.sets)) {
		if _, ok := now.sets[s]; !ok {
			gone = append(gone, nft.DeleteSet{Table: name, Set: s})
		}
	}
	return append(make, fill...), slices.Concat(rules, remove, add, drop, gone)
}

func elementOps(name string, before, now *table) (remove, add []nft.Op) {
	for _, s := range slices.Sorted(maps.Keys(before.sets)) {
		if out := missing(before.elements[s], now.elements[s]); len(out) > 0 {
			remove = append(remove, nft.DeleteElements{Table: name, Set: before.sets[s], Elements: out})
		}
	}
	for _, s := range slices.Sorted(maps.Keys(now.sets)) {
		if out := missing(now.elements[s], before.elements[s]); len(out) > 0 {
			add = append(add, nft.AddElements{Table: name, Set: now.sets[s], Elements: out})
		}
	}
	return remove, add
}

// missing are the elements of a that b does not have the same, in order.
func missing(a, b map[nft.Key]nft.Element) []nft.Element {
	var out []nft.Element
	for k, e := range a {
		if b[k] != e {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(x, y nft.Element) int { return strings.Compare(string(x.Key), string(y.Key)) })
	return out
}

// load is the transaction that makes the whole table in the place of any other of the name.
func load(name string, t *table) []nft.Op {
	head := []nft.Op{nft.AddTable{Table: name}, nft.DeleteTable{Table: name}, nft.AddTable{Table: name}}
	made, ops := difference(name, newTable(), t)
	return slices.Concat(head, made, ops)
}
