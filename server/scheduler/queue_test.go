package scheduler

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		next := func() string {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			it, ok := q.next(ctx)
			if !ok {
				return ""
			}
			return it.key.Name
		}
		q.add(pod("low", "1"), cares{})
		time.Sleep(time.Second)
		q.add(pod("high", "1", priority(5)), cares{})
		q.add(pod("also low", "1"), cares{})
		for _, want := range []string{"high", "low", "also low"} {
			if got := next(); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}

		// One that fits nowhere waits for a change, but for the back-off at least.
		it := q.items["low"]
		q.wait(it, false)
		began := time.Now()
		time.Sleep(100 * time.Millisecond)
		q.wake(nil)
		if got := next(); got != "low" || time.Since(began) != firstBackoff {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
		// What happens while it is decided about counts too.
		q.wake(nil)
		q.wait(it, false)
		began = time.Now()
		if got := next(); got != "low" || time.Since(began) != 2*firstBackoff {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
		// If nothing happens it is looked at after a while.
		q.wait(it, false)
		q.wake(func(c cares) bool { return c.volumes })
		began = time.Now()
		if got := next(); got != "low" || time.Since(began) != forgotten {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
		// Its own change counts at once, also while it is decided about.
		q.wait(it, false)
		q.add(pod("low", "1"), cares{})
		began = time.Now()
		if got := next(); got != "low" || time.Since(began) != 0 {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
		q.add(pod("low", "1"), cares{})
		q.wait(it, false)
		if got := next(); got != "low" || time.Since(began) > lastBackoff {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
		q.remove("low")
		q.wait(it, false)
		if got := next(); got != "" {
			t.Errorf("a removed pod came back: %q", got)
		}
	})
}

func TestNodeHeartbeatsWakeNobody(t *testing.T) {
	a := node("a", 4, 8)
	b := a.DeepCopy()
	b.Status.Conditions[0].LastHeartbeatTime.Time = time.Now()
	b.Status.Images = []corev1.ContainerImage{{Names: []string{"x"}}}
	if nodeMayHelp(a, b) {
		t.Error("a heartbeat counts as a change")
	}
	b.Labels["new"] = "yes"
	if !nodeMayHelp(a, b) {
		t.Error("a label does not count as a change")
	}
}
