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

		// One that fits nowhere waits for a change, but for a second at least.
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
		if got := next(); got != "low" || time.Since(began) != firstBackoff {
			t.Errorf("got %q after %v", got, time.Since(began))
		}
		// For its whole back-off, which has doubled twice, it waits behind others only, and what failed waits in any case.
		q.wake(nil)
		q.wait(it, false)
		began = time.Now()
		for time.Since(began) < 3*firstBackoff {
			time.Sleep(firstBackoff / 2)
			q.add(pod("urgent", "1", priority(5)), cares{})
			if got := next(); got != "urgent" {
				t.Fatalf("got %q after %v", got, time.Since(began))
			}
			q.add(pod("urgent 2", "1", priority(5)), cares{})
			q.remove("urgent")
			if got := next(); got != "urgent 2" {
				t.Fatalf("got %q after %v", got, time.Since(began))
			}
			q.remove("urgent 2")
		}
		time.Sleep(firstBackoff / 2)
		q.add(pod("urgent", "1", priority(5)), cares{})
		time.Sleep(firstBackoff)
		for _, want := range []string{"urgent", "low"} {
			if got := next(); got != want {
				t.Errorf("got %q after %v", got, time.Since(began))
			}
		}
		q.remove("urgent")
		q.wait(it, true)
		began = time.Now()
		if got := next(); got != "low" || time.Since(began) != 8*firstBackoff {
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
