package worker

import (
	"fmt"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestARestingWorkerIsSmall: the stack of a worker that waits is soon as small as its waiting needs.
func TestARestingWorkerIsSmall(t *testing.T) {
	const pods, most = 100, 8 << 10 // bytes each; 16 KiB as long as waiting held what looking needs
	stacks := func() uint64 {
		for range 8 { // each halves
			runtime.GC()
		}
		s := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	simulate(t, func(n *node) {
		before := stacks()
		var all []*corev1.Pod
		for i := range pods {
			p := pod()
			p.UID, p.Name = types.UID(fmt.Sprint("u", i)), fmt.Sprint("web-", i)
			all = append(all, p)
		}
		n.m.Set(all)
		n.after(time.Minute)
		for _, p := range all {
			n.expect(p.UID, "Running app:running/0+")
		}
		if each := (stacks() - before) / pods; each > most {
			t.Errorf("%d bytes of stack each, want at most %d", each, most)
		} else {
			t.Logf("%d bytes of stack each", each)
		}
	})
}
