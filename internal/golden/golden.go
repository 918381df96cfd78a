// Package golden compares what a test got with a file that somebody has read and found right.
//
//	golden.Compare(t, "testdata/answers.txt", got)
//
// `go test ./mesh/dns -update` writes the file anew; what changed in it is then read in the diff. Only tests import this
// package, of any folder; it imports only the standard library.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Compare fails the test if the file has other content.
func Compare(t testing.TB, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if string(want) != got {
		t.Errorf("%s differs (write it anew with -update); got:\n%s", path, got)
	}
}
