package nfttest

import (
	"os"
	"path/filepath"
	"testing"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
)

// TakenByKernel loads a table into the kernel, and compares what nft lists with the text that is wanted. Then nft reads its
// own listing back: a saved ruleset must load again.
func TakenByKernel(t *testing.T, table, want string, set func(*nft.Conn) error) {
	t.Helper()
	ns := nstest.New(t, "n")
	ns.Must(func() error {
		conn, err := nft.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		return set(conn)
	})
	listed := ns.Run("nft", "list", "table", "inet", table)
	if got, want := Normal(listed), Normal(want); got != want {
		t.Errorf("nft lists another table than ours (+ nft, - ours):\n%s", Differences(got, want))
	}
	again := nstest.New(t, "again")
	file := filepath.Join(t.TempDir(), "saved.nft")
	if err := os.WriteFile(file, []byte(listed), 0o600); err != nil {
		t.Fatal(err)
	}
	again.Run("nft", "-f", file)
	if got := Normal(again.Run("nft", "list", "table", "inet", table)); got != Normal(listed) {
		t.Errorf("the saved table is another one when it is loaded:\n%s", Differences(got, Normal(listed)))
	}
}
