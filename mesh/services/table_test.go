package services

import (
	"context"
	"testing"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

func TestTable(t *testing.T) {
	k := nfttest.New()
	p := Open(k, Options{Table: table})
	if err := p.Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	golden(t, "everything.nft", k.Text(table))
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
	golden := nfttest.New()
	if err := Open(golden, Options{Table: table}).Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	ns := nstest.New(t, "n")
	ns.Must(func() error {
		conn, err := nft.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		return Open(conn, Options{Table: table}).Set(context.Background(), everything())
	})
	listed := ns.Run("nft", "list", "table", "inet", table)
	if got, want := nfttest.Normal(listed), nfttest.Normal(golden.Text(table)); got != want {
		t.Errorf("nft lists another table than ours (+ nft, - ours):\n%s", nfttest.Differences(got, want))
	}
	again := nstest.New(t, "again")
	file := t.TempDir() + "/saved.nft"
	if err := writeFile(file, listed); err != nil {
		t.Fatal(err)
	}
	again.Run("nft", "-f", file)
	if got := nfttest.Normal(again.Run("nft", "list", "table", "inet", table)); got != nfttest.Normal(listed) {
		t.Errorf("the saved table is another one when it is loaded:\n%s", nfttest.Differences(got, nfttest.Normal(listed)))
	}
}
