// Package nfttest is a kernel's nftables in memory, printed as text.
//
// It keeps what the real one insists on: a transaction is done whole or not at all, names must exist
// before they are used and must not be used when they are removed, an element is not overwritten, names and rules are not too long.
//
//	k := nfttest.New()
//	err := k.Apply(ops)
//	fmt.Print(k.Text("bramble-abc"))
package nfttest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/mesh/nft"
)

// Kernel implements nft.Kernel. It is not for concurrent use.
type Kernel struct {
	tables map[string]*table
	handle uint64
	// Applied counts transactions, Ops the operations and Touched the elements in the last one.
	Applied, Ops, Touched int
	// Fail, when set, is asked before each transaction; its error refuses it.
	Fail func([]nft.Op) error
}

type table struct {
	handle uint64
	chains map[string]*chain
	sets   map[string]*set
}

type chain struct {
	base  *nft.Base
	rules []nft.Rule
}

type set struct {
	nft.Set
	elements map[nft.Key]nft.Element
}

// longestName of a chain or a set, in bytes.
const longestName = 255

var _ nft.Kernel = (*Kernel)(nil)

// New is a kernel without tables.
func New() *Kernel { return &Kernel{tables: map[string]*table{}} }

// Apply does all operations or none.
func (k *Kernel) Apply(ops []nft.Op) error {
	if k.Fail != nil {
		if err := k.Fail(ops); err != nil {
			return err
		}
	}
	next := map[string]*table{}
	for name, t := range k.tables {
		next[name] = t.clone()
	}
	k.Touched = 0
	for i, o := range ops {
		if err := k.do(next, o); err != nil {
			return fmt.Errorf("operation %d %T: %w", i, o, err)
		}
	}
	for name, t := range next {
		if err := t.check(); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
	k.tables = next
	k.Applied++
	k.Ops = len(ops)
	return nil
}

func (t *table) clone() *table {
	c := &table{handle: t.handle, chains: map[string]*chain{}, sets: map[string]*set{}}
	for n, v := range t.chains {
		c.chains[n] = &chain{base: v.base, rules: slices.Clone(v.rules)}
	}
	for n, v := range t.sets {
		c.sets[n] = &set{Set: v.Set, elements: maps.Clone(v.elements)}
	}
	return c
}

// check is the kernel's walk at the end of a transaction: nothing hangs in the air.
func (t *table) check() error {
	for name, c := range t.chains {
		for _, r := range c.rules {
			if err := t.checkRule(name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *table) checkRule(name string, r nft.Rule) error {
	if r.Size() > 128 {
		return fmt.Errorf("chain %s: a rule of %d expressions: %w", name, r.Size(), unix.EINVAL)
	}
	for _, to := range r.Chains() {
		if t.chains[to] == nil {
			return fmt.Errorf("chain %s leads to missing %s: %w", name, to, unix.ENOENT)
		}
	}
	for _, s := range r.Sets() {
		if t.sets[s] == nil {
			return fmt.Errorf("chain %s uses missing set %s: %w", name, s, unix.ENOENT)
		}
	}
	return nil
}

func (t *table) usesChain(name string) bool {
	for _, c := range t.chains {
		for _, r := range c.rules {
			if slices.Contains(r.Chains(), name) {
				return true
			}
		}
	}
	for _, s := range t.sets {
		for _, e := range s.elements {
			if e.Value.Goto == name {
				return true
			}
		}
	}
	return false
}

func (t *table) usesSet(name string) bool {
	for _, c := range t.chains {
		for _, r := range c.rules {
			if slices.Contains(r.Sets(), name) {
				return true
			}
		}
	}
	return false
}

func (k *Kernel) do(tables map[string]*table, o nft.Op) error {
	find := func(name string) (*table, error) {
		if t := tables[name]; t != nil {
			return t, nil
		}
		return nil, unix.ENOENT
	}
	switch o := o.(type) {
	case nft.AddTable:
		if tables[o.Table] == nil {
			k.handle++
			tables[o.Table] = &table{handle: k.handle, chains: map[string]*chain{}, sets: map[string]*set{}}
		}
		return nil
	case nft.DeleteTable:
		if _, err := find(o.Table); err != nil {
			return err
		}
		delete(tables, o.Table)
		return nil
	case nft.AddChain:
		t, err := find(o.Table)
		if len(o.Chain) > longestName {
			return fmt.Errorf("chain %s: %w", o.Chain, unix.ERANGE)
		}
		if err == nil && t.chains[o.Chain] == nil {
			t.chains[o.Chain] = &chain{base: o.Base}
		}
		return err
	case nft.AddSet:
		t, err := find(o.Table)
		if err != nil {
			return err
		}
		if len(o.Set.Name) > longestName {
			return fmt.Errorf("set %s: %w", o.Set.Name, unix.ERANGE)
		}
		if t.sets[o.Set.Name] != nil {
			return fmt.Errorf("set %s: %w", o.Set.Name, unix.EEXIST)
		}
		t.sets[o.Set.Name] = &set{Set: o.Set, elements: map[nft.Key]nft.Element{}}
		return nil
	case nft.FlushChain:
		_, c, err := findChain(tables, o.Table, o.Chain)
		if err == nil {
			c.rules = nil
		}
		return err
	case nft.DeleteChain:
		t, c, err := findChain(tables, o.Table, o.Chain)
		if err != nil {
			return err
		}
		if len(c.rules) > 0 || t.usesChain(o.Chain) {
			return fmt.Errorf("chain %s: %w", o.Chain, unix.EBUSY)
		}
		delete(t.chains, o.Chain)
		return nil
	case nft.AddRule:
		t, c, err := findChain(tables, o.Table, o.Chain)
		if err != nil {
			return err
		}
		c.rules = append(c.rules, o.Rule)
		return t.checkRule(o.Chain, o.Rule)
	case nft.DeleteSet:
		t, err := find(o.Table)
		if err != nil {
			return err
		}
		if t.sets[o.Set] == nil {
			return fmt.Errorf("set %s: %w", o.Set, unix.ENOENT)
		}
		if t.usesSet(o.Set) {
			return fmt.Errorf("set %s: %w", o.Set, unix.EBUSY)
		}
		delete(t.sets, o.Set)
		return nil
	case nft.AddElements:
		t, err := find(o.Table)
		if err != nil {
			return err
		}
		return k.add(t, o)
	case nft.DeleteElements:
		t, err := find(o.Table)
		if err != nil {
			return err
		}
		return k.remove(t, o)
	}
	return fmt.Errorf("unknown operation: %w", unix.EOPNOTSUPP)
}

func findChain(tables map[string]*table, name, want string) (*table, *chain, error) {
	t := tables[name]
	if t == nil || t.chains[want] == nil {
		return nil, nil, fmt.Errorf("chain %s: %w", want, unix.ENOENT)
	}
	return t, t.chains[want], nil
}

func (k *Kernel) add(t *table, o nft.AddElements) error {
	s := t.sets[o.Set.Name]
	if s == nil {
		return fmt.Errorf("set %s: %w", o.Set.Name, unix.ENOENT)
	}
	for _, e := range o.Elements {
		k.Touched++
		if len(e.Key) != 4*len(s.Key) {
			return fmt.Errorf("set %s: key of %d bytes: %w", o.Set.Name, len(e.Key), unix.EINVAL)
		}
		if to := e.Value.Goto; to != "" && t.chains[to] == nil {
			return fmt.Errorf("set %s leads to missing chain %s: %w", o.Set.Name, to, unix.ENOENT)
		}
		if old, ok := s.elements[e.Key]; ok && old.Value != e.Value {
			return fmt.Errorf("set %s, element %s: %w", o.Set.Name, e.Format(s.Set), unix.EEXIST)
		}
		s.elements[e.Key] = e
	}
	return nil
}

func (k *Kernel) remove(t *table, o nft.DeleteElements) error {
	s := t.sets[o.Set.Name]
	if s == nil {
		return fmt.Errorf("set %s: %w", o.Set.Name, unix.ENOENT)
	}
	for _, e := range o.Elements {
		k.Touched++
		if _, ok := s.elements[e.Key]; !ok {
			return fmt.Errorf("set %s, element %s: %w", o.Set.Name, e.Format(s.Set), unix.ENOENT)
		}
		delete(s.elements, e.Key)
	}
	return nil
}

// Remember does what a rule with Remember does to a dynamic set when a packet passes.
func (k *Kernel) Remember(tableName, setName string, key nft.Key, left time.Duration) {
	k.tables[tableName].sets[setName].elements[key] = nft.Element{Key: key, Expires: left}
}

// TableHandle is the table's number.
func (k *Kernel) TableHandle(name string) (uint64, bool, error) {
	if t := k.tables[name]; t != nil {
		return t.handle, true, nil
	}
	return 0, false, nil
}

// Elements lists a set's elements.
func (k *Kernel) Elements(tableName, setName string) ([]nft.Element, error) {
	t := k.tables[tableName]
	if t == nil || t.sets[setName] == nil {
		return nil, nil
	}
	return slices.Collect(maps.Values(t.sets[setName].elements)), nil
}

// Sets lists a table's sets.
func (k *Kernel) Sets(tableName string) ([]string, error) {
	t := k.tables[tableName]
	if t == nil {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(t.sets)), nil
}

// Text prints a table as nft does, with sets, chains and elements sorted; "" when there is none.
func (k *Kernel) Text(name string) string {
	t := k.tables[name]
	if t == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", name)
	for _, n := range slices.Sorted(maps.Keys(t.sets)) {
		s := t.sets[n]
		kind := "set"
		if len(s.Data) > 0 {
			kind = "map"
		}
		fmt.Fprintf(&b, "\t%s %s {\n", kind, n)
		for _, line := range s.Format() {
			fmt.Fprintf(&b, "\t\t%s\n", line)
		}
		if lines := elementLines(s); len(lines) > 0 {
			fmt.Fprintf(&b, "\t\telements = {\n")
			for _, l := range lines {
				fmt.Fprintf(&b, "\t\t\t%s\n", l)
			}
			fmt.Fprintf(&b, "\t\t}\n")
		}
		fmt.Fprintf(&b, "\t}\n")
	}
	for _, n := range slices.Sorted(maps.Keys(t.chains)) {
		c := t.chains[n]
		fmt.Fprintf(&b, "\tchain %s {\n", n)
		if c.base != nil {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.base.Type, c.base.Hook, priority(c.base.Priority))
		}
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.Text)
		}
		fmt.Fprintf(&b, "\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func elementLines(s *set) []string {
	var lines []string
	for _, e := range s.elements {
		if s.Dynamic {
			continue
		}
		lines = append(lines, e.Format(s.Set))
	}
	slices.Sort(lines)
	return lines
}

func priority(p int32) string {
	switch p {
	case -300:
		return "raw"
	case -100:
		return "dstnat"
	case 0:
		return "filter"
	case 100:
		return "srcnat"
	}
	if p < 0 {
		return fmt.Sprintf("filter - %d", -p)
	}
	return fmt.Sprintf("filter + %d", p)
}
