package store_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"bramble.dev/server/store"
	"bramble.dev/test/emulated"
)

const memoryEnv = "BRAMBLE_STORE_MEMORY"

// TestMemory holds a budget: 10,000 ConfigMaps of 1.5 KB cost at most 16 MiB of anonymous memory, after
// they were written and after they were loaded.
func TestMemory(t *testing.T) {
	t.Parallel()
	if emulated.By() != "" {
		t.Skip("what an emulated process holds is mostly the emulator's")
	}
	const budget = 16 << 10
	path := filepath.Join(t.TempDir(), "state.db")
	for _, what := range []string{"write", "load"} {
		cmd := emulated.Self()
		cmd.Env = append(os.Environ(), memoryEnv+"="+what+" "+path)
		out, err := cmd.CombinedOutput()
		var kib int
		if _, e := fmt.Sscanf(string(out), "anonymous %d", &kib); err != nil || e != nil {
			t.Fatalf("%s: %v, %s", what, err, out)
		}
		t.Logf("after %s: %d KiB more anonymous memory", what, kib)
		if kib > budget {
			t.Errorf("after %s: %d KiB more, the budget is %d", what, kib, budget)
		}
	}
}

func measureMemory(spec string) {
	what, path, _ := strings.Cut(spec, " ")
	if what == "load" { // the same file, but nothing in it, for what a process costs by itself
		open(path + ".empty")
	} else {
		open(path)
	}
	before := anonymous()
	if what == "load" {
		open(path)
	} else {
		if err := fillFrom(context.Background(), configMaps(opened), 10_000); err != nil {
			panic(err)
		}
	}
	fmt.Println("anonymous", anonymous()-before)
}

var opened *store.DB

func open(path string) {
	var err error
	if opened, err = store.Open(context.Background(), store.Options{Path: path}); err != nil {
		panic(err)
	}
}

// anonymous memory in KiB, after a collection but with what the runtime keeps for itself.
func anonymous() int {
	runtime.GC()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if _, err := fmt.Sscanf(line, "Anonymous: %d kB", &kib); err == nil {
			return kib
		}
	}
	panic("no Anonymous")
}
