package fence_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"bramble.dev/agent/fence"
	"bramble.dev/link"
)

// world is a node and a server with a pod that may run only once, in steps of a second. What the server does is what
// podgc does: it replaces the pod when link.FencePassed has gone by since it last gave a sign of life, on the clock of its
// own process. The test's clock is the true one; the wall clocks of both appear nowhere.
type world struct {
	t   *rapid.T
	now time.Duration

	// the server
	up       bool
	started  time.Duration
	held     map[bool]time.Duration // true: since it was started
	told     bool                   // it knows of the fence
	replaced bool                   // another pod may run elsewhere

	// the way: what was sent and has not arrived
	cut     bool
	asks    []message
	answers []message

	// the node
	agent    *fence.Fence
	guard    fence.Guard
	running  bool
	stopping time.Duration // when a stop that has begun is over
	killAt   time.Duration // in the hands of the shim
	wanted   bool          // as far as the agent knows
	asked    time.Duration
}

type message struct {
	stamp  time.Duration
	at     time.Duration // of arrival
	wanted bool          // what the server wanted when it answered
}

var pod = &corev1.Pod{
	ObjectMeta: metav1.ObjectMeta{Name: "db-0", UID: "u", OwnerReferences: []metav1.OwnerReference{{Kind: "StatefulSet", Controller: new(bool)}}},
	Spec: corev1.PodSpec{TerminationGracePeriodSeconds: new(int64), Tolerations: []corev1.Toleration{
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, TolerationSeconds: new(int64)},
	}},
}

func init() { *pod.OwnerReferences[0].Controller = true; *pod.Spec.TerminationGracePeriodSeconds = 10 }

func noClaims(string, string) (*corev1.PersistentVolumeClaim, bool) { return nil, false }

func (w *world) begin() {
	w.guard = fence.Guard{}
	w.agent = fence.New(fence.Config{Clock: func() time.Duration { return w.now }, Claim: noClaims, Wake: func(types.UID) {}, Ask: func() {}})
	w.agent.Watch(pod.UID, true)
}

// work is what the agent does in a second.
func (w *world) work(limit link.Fence) {
	if w.agent == nil {
		return
	}
	if w.asked == 0 || w.now-w.asked >= 25*time.Second {
		if stamp := w.agent.Stamp(); stamp > 0 && !w.cut {
			w.asks, w.asked = append(w.asks, message{stamp: stamp, at: w.now + w.delay()}), w.now
		}
	}
	v := w.guard.Look(limit, w.agent.Signs())
	if w.running {
		w.killAt = max(w.killAt, v.KillAt)
	}
	switch {
	case w.running && (v.Cut || !w.wanted) && w.stopping == 0:
		w.stopping = w.now + time.Duration(rapid.IntRange(0, 10).Draw(w.t, "end"))*time.Second
	case !w.running && !v.Held && w.wanted:
		if v.KillAt == 0 {
			w.t.Fatal("it starts and no shim knows until when")
		}
		w.running, w.stopping, w.killAt = true, 0, v.KillAt
	}
}

func (w *world) delay() time.Duration {
	return time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 5, 40, 300}).Draw(w.t, "delay")) * time.Second
}

// deliver carries what has arrived by now; what was on its way when the path was cut may be lost.
func (w *world) deliver() {
	for len(w.asks) > 0 && w.asks[0].at <= w.now {
		if m := w.asks[0]; w.up {
			w.held[true], w.told = w.now, true
			w.answers = append(w.answers, message{m.stamp, w.now + w.delay(), !w.replaced})
		}
		w.asks = w.asks[1:]
	}
	for len(w.answers) > 0 && w.answers[0].at <= w.now {
		if m := w.answers[0]; w.agent != nil {
			complete := rapid.IntRange(0, 3).Draw(w.t, "complete") > 0
			if complete {
				w.wanted = m.wanted
			}
			w.agent.Held(m.stamp, complete)
		}
		w.answers = w.answers[1:]
	}
}

func (w *world) step(limit link.Fence) {
	w.now += time.Second
	switch 300 - rapid.IntRange(0, 300).Draw(w.t, "event") { // small numbers are drawn more often
	case 0:
		w.cut, w.asks, w.answers = !w.cut, nil, nil
	case 1: // the server ends, and another process begins
		w.up = !w.up
		w.started, w.held, w.asks = w.now, map[bool]time.Duration{}, nil
	case 2: // the agent ends, what runs does not
		w.agent, w.asks, w.answers, w.asked = nil, nil, nil, 0
	case 3:
		if w.agent == nil {
			w.begin()
		}
	case 4: // the board's plug is pulled: boot time would begin anew, and nothing of before is compared with it
		w.running, w.stopping, w.killAt, w.asks, w.answers, w.asked = false, 0, 0, nil, nil, 0
		w.begin()
	}
	w.deliver()
	w.work(limit)
	if w.running && (w.stopping > 0 && w.now >= w.stopping || w.killAt > 0 && w.now >= w.killAt) {
		w.running, w.stopping = false, 0
	}
	last, ok := w.held[true]
	if !ok {
		last = w.started
	}
	if w.up && w.told && w.now-last >= link.FencePassed(limit.Kill) {
		w.replaced = true
	}
	if w.replaced && w.running {
		w.t.Fatalf("at %v two run: the server last answered at %v, the agent lives: %v, the shim kills at %v", w.now, last, w.agent != nil, w.killAt)
	}
}

// Never two at once, whatever is cut, late, killed or started again.
func TestNeverTwo(t *testing.T) {
	replaced := 0
	rapid.Check(t, func(t *rapid.T) {
		limit, ok := link.FenceFor(pod, noClaims)
		if !ok {
			t.Fatal("no fence")
		}
		w := &world{t: t, now: time.Hour, started: time.Hour, up: true, held: map[bool]time.Duration{}, wanted: true}
		w.begin()
		for range 900 {
			w.step(limit)
		}
		if w.replaced {
			replaced++
		}
	})
	if replaced == 0 {
		t.Error("in no run was the pod replaced: the test shows nothing")
	}
}
