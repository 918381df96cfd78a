package services

import (
	"context"
	"testing"

	"bramble.dev/internal/golden"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

func TestTable(t *testing.T) {
	k := nfttest.New()
	p := Open(k, Options{Table: table})
	if err := p.Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/everything.nft", k.Text(table))
	if err := p.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := k.Text(table); got != "" {
		t.Errorf("left after the teardown:\n%s", got)
	}
}

// TestKernelTakesTheTable loads the same table into the kernel, and compares what nft lists with what
// the golden file says. Then nft reads its own listing back: a saved ruleset must load again.
func TestKernelTakesTheTable(t *testing.T) {
	ours := nfttest.New()
	if err := Open(ours, Options{Table: table}).Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	nfttest.TakenByKernel(t, table, ours.Text(table), func(conn *nft.Conn) error {
		return Open(conn, Options{Table: table}).Set(context.Background(), everything())
	})
}
