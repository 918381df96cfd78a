package nft_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

const table = "t"

var (
	verdicts = nft.Set{Name: "verdicts", Key: []nft.Type{nft.Addr}, Data: []nft.Type{nft.Verdict}}
	clients  = nft.Set{Name: "clients", Key: []nft.Type{nft.Addr}, Dynamic: true, Timeout: time.Hour}
)

func key(i int) nft.Key {
	return nft.MakeKey(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
}

// both runs a test on the kernel and on the one in memory, which must agree.
func both(t *testing.T, f func(t *testing.T, k nft.Kernel)) {
	t.Run("memory", func(t *testing.T) { f(t, nfttest.New()) })
	t.Run("kernel", func(t *testing.T) {
		ns := nstest.New(t, "n")
		var conn *nft.Conn
		ns.Must(func() (err error) { conn, err = nft.Dial(); return err })
		defer conn.Close()
		f(t, conn)
	})
}

func TestKernelContract(t *testing.T) {
	both(t, func(t *testing.T, k nft.Kernel) {
		apply := func(want error, ops ...nft.Op) {
			t.Helper()
			if err := k.Apply(ops); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
		one := []nft.Element{{Key: key(1), Value: nft.Value{Goto: "b"}}}
		apply(unix.ENOENT, nft.DeleteTable{Table: table})
		apply(nil, nft.AddTable{Table: table}, nft.AddTable{Table: table}, nft.AddChain{Table: table, Chain: "a"}, nft.AddSet{Table: table, Set: verdicts})
		apply(unix.ENOENT, nft.AddElements{Table: table, Set: verdicts, Elements: one}) // leads nowhere
		apply(nil, nft.AddChain{Table: table, Chain: "b"}, nft.AddElements{Table: table, Set: verdicts, Elements: one})
		apply(nil, nft.AddElements{Table: table, Set: verdicts, Elements: one})
		apply(unix.EEXIST, nft.AddElements{Table: table, Set: verdicts, Elements: []nft.Element{{Key: key(1), Value: nft.Value{Goto: "a"}}}})
		apply(nil, nft.DeleteElements{Table: table, Set: verdicts, Elements: one}, nft.AddElements{Table: table, Set: verdicts, Elements: one})
		apply(unix.EBUSY, nft.DeleteChain{Table: table, Chain: "b"})
		apply(unix.ENOENT, nft.DeleteElements{Table: table, Set: verdicts, Elements: []nft.Element{{Key: key(9)}}})
		apply(unix.ENOENT, nft.AddRule{Table: table, Chain: "a", Rule: nft.New().Goto("missing")})
		apply(unix.ENOENT, nft.AddRule{Table: table, Chain: "a", Rule: nft.New().Vmap("missing", nft.Saddr)})
		apply(nil, nft.AddRule{Table: table, Chain: "a", Rule: nft.New().Vmap("verdicts", nft.Saddr)}, nft.AddRule{Table: table, Chain: "a", Rule: nft.New().Spread([]string{"b", "b"})})
		apply(unix.EBUSY, nft.DeleteSet{Table: table, Set: "verdicts"})
		// All or nothing: the first half of a refused transaction is not done.
		apply(unix.ENOENT, nft.FlushChain{Table: table, Chain: "a"}, nft.DeleteChain{Table: table, Chain: "missing"})
		apply(unix.EBUSY, nft.DeleteSet{Table: table, Set: "verdicts"})
		apply(nil, nft.FlushChain{Table: table, Chain: "a"}, nft.DeleteSet{Table: table, Set: "verdicts"}, nft.DeleteChain{Table: table, Chain: "b"}, nft.DeleteChain{Table: table, Chain: "a"})
		first, ok, err := k.TableHandle(table)
		if err != nil || !ok {
			t.Fatalf("handle: %v, %v", ok, err)
		}
		apply(nil, nft.DeleteTable{Table: table}, nft.AddTable{Table: table}, nft.AddSet{Table: table, Set: clients},
			nft.AddElements{Table: table, Set: clients, Elements: []nft.Element{{Key: key(1), Expires: 30 * time.Minute}}})
		if second, ok, err := k.TableHandle(table); err != nil || !ok || second == first {
			t.Errorf("handle of a new table: %d, before %d, %v, %v", second, first, ok, err)
		}
		es, err := k.Elements(table, "clients")
		if err != nil || len(es) != 1 || es[0].Key != key(1) || es[0].Expires > 30*time.Minute || es[0].Expires < 29*time.Minute {
			t.Errorf("elements: %v, %v", es, err)
		}
		if names, err := k.Sets(table); err != nil || !slices.Equal(names, []string{"clients"}) {
			t.Errorf("sets: %v, %v", names, err)
		}
		for _, missing := range []func() (int, error){
			func() (int, error) { es, err := k.Elements(table, "none"); return len(es), err },
			func() (int, error) { es, err := k.Elements("none", "none"); return len(es), err },
			func() (int, error) { s, err := k.Sets("none"); return len(s), err },
			func() (int, error) { _, ok, err := k.TableHandle("none"); return map[bool]int{true: 1}[ok], err },
		} {
			if n, err := missing(); n != 0 || err != nil {
				t.Errorf("of what is missing: %d, %v", n, err)
			}
		}
	})
}

// TestLarge: a transaction of many megabytes, and a list of many datagrams.
func TestLarge(t *testing.T) {
	const n = 100_000
	both(t, func(t *testing.T, k nft.Kernel) {
		s := nft.Set{Name: "s", Key: []nft.Type{nft.Addr}}
		var es []nft.Element
		for i := range n {
			es = append(es, nft.Element{Key: key(i), Comment: "an element with a comment of some length"})
		}
		if err := k.Apply([]nft.Op{nft.AddTable{Table: table}, nft.AddSet{Table: table, Set: s}, nft.AddElements{Table: table, Set: s, Elements: es}}); err != nil {
			t.Fatal(err)
		}
		got, err := k.Elements(table, "s")
		if err != nil || len(got) != n {
			t.Errorf("%d elements, %v", len(got), err)
		}
		if err := k.Apply([]nft.Op{nft.DeleteElements{Table: table, Set: s, Elements: es}}); err != nil {
			t.Fatal(err)
		}
		if got, err := k.Elements(table, "s"); err != nil || len(got) != 0 {
			t.Errorf("left: %d, %v", len(got), err)
		}
	})
}

// TestErrorsNameTheOperation, however many there are.
func TestErrorsNameTheOperation(t *testing.T) {
	ns := nstest.New(t, "n")
	ns.Must(func() error {
		conn, err := nft.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		ops := []nft.Op{nft.AddTable{Table: table}, nft.AddChain{Table: table, Chain: "a"}}
		for i := range 500 {
			ops = append(ops, nft.AddRule{Table: table, Chain: "a", Rule: nft.New().Goto(fmt.Sprintf("missing%d", i))})
		}
		err = conn.Apply(ops)
		if err == nil || !strings.Contains(err.Error(), "add rule to a: goto missing0") {
			t.Errorf("got %v", err)
		}
		// And the connection goes on working.
		return conn.Apply([]nft.Op{nft.AddTable{Table: table}})
	})
}
