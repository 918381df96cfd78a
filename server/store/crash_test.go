package store_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
	"bramble.dev/test/emulated"
)

const crashEnv = "BRAMBLE_STORE_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		crashingWriter(path)
		return
	}
	if spec := os.Getenv(memoryEnv); spec != "" {
		measureMemory(spec)
		return
	}
	os.Exit(m.Run())
}

// crashingWriter writes with 16 writers until it is killed, and says what was acknowledged. One of the writers updates
// an object of the volatile class, whose revisions must not come again either.
func crashingWriter(path string) {
	ctx := context.Background()
	db, err := store.Open(ctx, store.Options{Path: path, Reserve: 50})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	durable := configMaps(db)
	leases := db.Storage(store.Resource{Prefix: "/leases", Codec: protobuf, New: newConfigMap,
		Volatile: func(_, _ runtime.Object) bool { return true }})
	var mu sync.Mutex
	say := func(s storage.Interface, key string) func(out *corev1.ConfigMap, err error) {
		return func(out *corev1.ConfigMap, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			fmt.Println("ok", key, out.ResourceVersion, out.Data["n"])
		}
	}
	run := fmt.Sprint(time.Now().UnixNano())
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				s, key := durable, fmt.Sprintf("/configmaps/default/%d-%d", w, i%20)
				if w == 15 {
					s, key = leases, "/leases/default/lease"
				}
				out := &corev1.ConfigMap{}
				err := s.GuaranteedUpdate(ctx, key, out, true, nil, storage.SimpleUpdate(func(runtime.Object) (runtime.Object, error) {
					cm := configMap(i)
					cm.Data["n"] = fmt.Sprintf("%s-%d", run, i)
					return cm, nil
				}), nil)
				say(s, key)(out, err)
			}
		}()
	}
	select {}
}

// TestCrash kills a writing process again and again: whatever was acknowledged is there, and no revision comes twice.
func TestCrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	acked := map[string]string{} // key -> the latest acknowledged content
	seen := map[string]string{}  // revision -> what it was given to
	var highest uint64
	for round := range 6 {
		for _, line := range writeUntilKilled(t, path, time.Duration(100+rand.IntN(400))*time.Millisecond) {
			f := strings.Fields(line)
			if len(f) != 4 || f[0] != "ok" {
				t.Fatalf("round %d: %q", round, line)
			}
			key, rv, n := f[1], f[2], f[3]
			if other, twice := seen[rv]; twice {
				t.Fatalf("round %d: revision %s was given to %s and to %s", round, rv, other, key+" "+n)
			}
			seen[rv] = key + " " + n
			if strings.HasPrefix(key, "/configmaps/") {
				acked[key] = rv + " " + n
			}
			rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(rv)
			if err != nil {
				t.Fatal(err)
			}
			highest = max(highest, rev)
		}
		checkAcknowledged(t, path, acked, highest)
	}
	t.Logf("%d writes acknowledged, %d objects", len(seen), len(acked))
}

func writeUntilKilled(t *testing.T, path string, after time.Duration) []string {
	t.Helper()
	cmd := emulated.Self()
	cmd.Env = append(os.Environ(), crashEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	s := bufio.NewScanner(out)
	var kill *time.Timer
	for s.Scan() {
		if kill == nil { // the time runs from the first write on
			kill = time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
		lines = append(lines, s.Text())
	}
	cmd.Wait()
	if len(lines) == 0 {
		t.Fatal("the writer wrote nothing")
	}
	if last := lines[len(lines)-1]; len(strings.Fields(last)) < 4 {
		lines = lines[:len(lines)-1] // cut off while it was being said
	}
	return lines
}

// checkAcknowledged reads every object that was acknowledged: it is as it was said, or as a later write made it that
// was not said any more.
func checkAcknowledged(t *testing.T, path string, acked map[string]string, highest uint64) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Options{Path: path, Reserve: 50})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if uint64(db.Revision()) < highest {
		t.Fatalf("opened at revision %d, below %d", db.Revision(), highest)
	}
	s := configMaps(db)
	for key, want := range acked {
		var cm corev1.ConfigMap
		if err := s.Get(t.Context(), key, storage.GetOptions{}, &cm); err != nil {
			t.Fatalf("acknowledged and lost: %s (%s): %v", key, want, err)
		}
		rv, n, _ := strings.Cut(want, " ")
		if cm.ResourceVersion == rv && cm.Data["n"] != n {
			t.Fatalf("%s at %s: %q, want %q", key, rv, cm.Data["n"], n)
		}
		have, _ := storage.APIObjectVersioner{}.ObjectResourceVersion(&cm)
		was, _ := storage.APIObjectVersioner{}.ParseResourceVersion(rv)
		if have < was {
			t.Fatalf("%s is at revision %d, acknowledged at %d", key, have, was)
		}
		acked[key] = cm.ResourceVersion + " " + cm.Data["n"]
	}
}
