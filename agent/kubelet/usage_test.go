package kubelet

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/seam"
	"bramble.dev/link"
)

// counters go up by themselves: the node uses 1.5 cores, the container a quarter of one.
type counters struct {
	start   time.Time
	started time.Time // the container
	reads   int
}

func (c *counters) read(context.Context) (*reading, error) {
	c.reads++
	now := time.Now()
	since := uint64(now.Sub(c.start))
	r := &reading{at: now, node: NodeStats{At: now, CPUNanos: since * 3 / 2, MemoryWorkingSet: 3 << 20}, pods: map[types.UID]seam.PodStats{}}
	if !c.started.IsZero() {
		r.pods["u1"] = seam.PodStats{PodUID: "u1", Namespace: "default", Name: "web", Containers: []seam.ContainerStats{
			{Name: "app", ID: c.started.String(), At: now, StartedAt: c.started, CPUNanos: uint64(now.Sub(c.started)) / 4, MemoryWorkingSet: 1 << 20},
		}}
	}
	return r, nil
}

func TestUsageIsARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counters{start: time.Now(), started: time.Now()}
		m := &meter{}
		time.Sleep(time.Hour)
		ask := func(window time.Duration, reads int) link.Usage {
			t.Helper()
			before := c.reads
			u, err := m.measure(t.Context(), c.read)
			if err != nil {
				t.Fatal(err)
			}
			if u.Node.Window.Duration != window || c.reads-before != reads {
				t.Errorf("window %v after %d readings, want %v after %d", u.Node.Window.Duration, c.reads-before, window, reads)
			}
			if got := u.Node.Usage.Cpu().String(); got != "1500m" {
				t.Errorf("the node uses %s", got)
			}
			return u
		}
		u := ask(time.Second, 2)
		if len(u.Pods) != 1 || u.Pods[0].Containers[0].Usage.Cpu().String() != "250m" || u.Pods[0].Containers[0].Usage.Memory().String() != "1Mi" {
			t.Errorf("got %+v", u.Pods)
		}
		time.Sleep(15 * time.Second)
		ask(15*time.Second, 1)
		ask(time.Second, 1) // at once again
		time.Sleep(2 * time.Minute)
		ask(time.Second, 2)

		c.started = time.Now() // anew
		time.Sleep(10 * time.Second)
		if u := ask(10*time.Second, 1); u.Pods[0].Containers[0].Usage.Cpu().String() != "250m" {
			t.Errorf("the new container uses %v", u.Pods[0].Containers[0].Usage)
		}
		c.started = time.Now().Add(10 * time.Second)
		time.Sleep(10*time.Second + 100*time.Millisecond)
		if u := ask(10*time.Second+100*time.Millisecond, 1); len(u.Pods) != 0 {
			t.Errorf("a rate over 100 ms: %+v", u.Pods)
		}
	})
}

func TestUsageEndsWithItsAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := (&meter{}).measure(ctx, (&counters{start: time.Now()}).read); err == nil {
			t.Error("nobody waits, and it is measured all the same")
		}
	})
}
