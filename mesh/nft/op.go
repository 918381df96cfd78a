package nft

import "slices"

// Hook is where in a packet's way a base chain stands.
type Hook uint32

// The hooks of IPv4 and IPv6.
const (
	Prerouting Hook = iota
	Input
	Forward
	Output
	Postrouting
)

var hookNames = [...]string{"prerouting", "input", "forward", "output", "postrouting"}

func (h Hook) String() string { return hookNames[h] }

// Base makes a chain one that packets come through.
type Base struct {
	Type     string // "nat" or "filter"
	Hook     Hook
	Priority int32
}

// Op is one operation of a transaction, of the types below. All tables are of the family inet.
type Op interface{ encode(t *transaction) }

type (
	// AddTable makes a table, or does nothing when it exists.
	AddTable struct{ Table string }
	// DeleteTable removes a table and all that it holds.
	DeleteTable struct{ Table string }
	// AddChain makes an empty chain.
	AddChain struct {
		Table, Chain string
		Base         *Base
	}
	// FlushChain removes the rules of a chain.
	FlushChain struct{ Table, Chain string }
	// DeleteChain removes an empty chain that nothing leads to.
	DeleteChain struct{ Table, Chain string }
	// AddSet makes an empty set or map.
	AddSet struct {
		Table string
		Set   Set
	}
	// DeleteSet removes a set that no rule uses.
	DeleteSet struct{ Table, Set string }
	// AddRule puts a rule at the end of a chain.
	AddRule struct {
		Table, Chain string
		Rule         Rule
	}
	// AddElements puts elements into a set. An element that is there with another value is an error.
	AddElements struct {
		Table    string
		Set      Set
		Elements []Element
	}
	// DeleteElements takes elements, named by their keys, out of a set.
	DeleteElements struct {
		Table    string
		Set      Set
		Elements []Element
	}
)

// Kernel is what applies transactions: a Conn, or nfttest.Kernel.
type Kernel interface {
	// Apply does all operations or none.
	Apply([]Op) error
	// TableHandle is the number of a table, which no other table of the name ever had or will have.
	TableHandle(table string) (uint64, bool, error)
	// Elements lists the elements of a set; a missing one has none.
	Elements(table, set string) ([]Element, error)
	// Sets lists the names of a table's sets; a missing table has none.
	Sets(table string) ([]string, error)
}

// Switch makes what packets are to be led to, and then does ops, which lead them there. If made has new chains it is a
// transaction of its own: a packet that is under way when the kernel changes over sees the new elements and the old rules, so
// that a chain of the same transaction would be empty to it. An error may leave made behind.
func Switch(k Kernel, made, ops []Op) error {
	if slices.ContainsFunc(made, func(o Op) bool { _, ok := o.(AddChain); return ok }) {
		if err := k.Apply(made); err != nil {
			return err
		}
		made = nil
	}
	if made = slices.Concat(made, ops); len(made) == 0 {
		return nil
	}
	return k.Apply(made)
}
