// Package nft changes the kernel's nftables in whole transactions.
//
// A caller builds rules with a Rule builder, which makes the text that `nft list` would print and the
// bytes that the kernel takes at the same time, collects operations, and hands all of them to
// Kernel.Apply: the kernel does all or none, and no packet sees a state in between. Everything that
// this package can express, `nft -f` can read back, so that a saved ruleset loads again.
//
// It exists beside github.com/google/nftables because of scale and of tests: a transaction is one
// buffer and one acknowledgement however many services it holds, there is no state shared by all
// connections of a process, and rules can be printed without a kernel (see nfttest).
//
//	conn, err := nft.Dial()
//	err = conn.Apply([]nft.Op{
//		nft.AddTable{Table: "demo"},
//		nft.AddChain{Table: "demo", Chain: "in", Base: &nft.Base{Type: "filter", Hook: nft.Input}},
//		nft.AddRule{Table: "demo", Chain: "in", Rule: nft.New().L4Proto(nft.TCP).Drop()},
//	})
package nft
