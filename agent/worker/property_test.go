package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"bramble.dev/agent/fake"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

func starts(k Kind) bool {
	return k == Mount || k == RunSandbox || k == EnsureImage || k == StartContainer
}

func drawPod(t *rapid.T, uid string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod-" + uid, UID: types.UID(uid)}}
	p.Spec.RestartPolicy = rapid.SampledFrom([]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}).Draw(t, "policy")
	p.Spec.TerminationGracePeriodSeconds = seconds(int64(rapid.IntRange(0, 20).Draw(t, "grace")))
	for i := range rapid.IntRange(0, 2).Draw(t, "inits") {
		c := corev1.Container{Name: fmt.Sprintf("init%d", i), Image: "i:1"}
		if rapid.Bool().Draw(t, "sidecar") {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "apps") {
		c := corev1.Container{Name: fmt.Sprintf("app%d", i), Image: "i:1"}
		if rapid.IntRange(0, 3).Draw(t, "hook") == 0 {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

// drawObserved draws anything that might be observed, however odd.
func drawObserved(t *rapid.T, p *corev1.Pod, now time.Time) Observed {
	o := Observed{
		Mounted: rapid.Bool().Draw(t, "mounted"), Busy: map[string]Work{}, Probes: map[string]status.Probes{},
		Phase:  rapid.SampledFrom([]corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed}).Draw(t, "phase"),
		Memory: Memory{Finished: rapid.IntRange(0, 5).Draw(t, "finished") == 0, Containers: map[string]Past{}},
	}
	var names []string
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		names = append(names, c.Name)
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "sandboxes") {
		s := seam.Sandbox{ID: fmt.Sprint("s", i), Ready: rapid.Bool().Draw(t, "ready"), PodUID: p.UID}
		for j := range rapid.IntRange(0, 4).Draw(t, "containers") {
			c := seam.Container{ID: fmt.Sprint("c", i, j), Name: rapid.SampledFrom(names).Draw(t, "name"), CreatedAt: now.Add(-time.Duration(j) * time.Second)}
			c.State = rapid.SampledFrom([]seam.State{seam.Created, seam.Running, seam.Exited, seam.Unknown}).Draw(t, "state")
			c.ExitCode = int32(rapid.IntRange(0, 1).Draw(t, "code"))
			if rapid.IntRange(0, 3).Draw(t, "busy") == 0 {
				o.Busy[c.ID] = rapid.SampledFrom([]Work{PostStart, PreStop, Stopping}).Draw(t, "work")
			}
			s.Containers = append(s.Containers, c)
		}
		o.Sandboxes = append(o.Sandboxes, s)
	}
	if rapid.Bool().Draw(t, "ip") {
		o.PodIPs = []string{"10.42.0.2"}
	}
	return o
}

// TestDeletionNeverStartsWork: whatever is observed of a pod that ends, nothing of it is started.
func TestDeletionNeverStartsWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := t0
		p := drawPod(t, "u")
		d := Desired{Pod: p, Gone: rapid.Bool().Draw(t, "gone")}
		if !d.Gone {
			deleted(int64(rapid.IntRange(0, 30).Draw(t, "deletionGrace")))(p)
		}
		if a, _ := Plan(d, drawObserved(t, p, now), now); starts(a.Kind) {
			t.Fatalf("a pod that ends: %+v", a)
		}
	})
}

// TestPlanNeverStartsWhatRuns: a container of a name that runs is not started.
func TestPlanNeverStartsWhatRuns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPod(t, "u")
		o := drawObserved(t, p, t0)
		a, _ := Plan(Desired{Pod: p}, o, t0)
		if a.Kind != StartContainer {
			return
		}
		for _, s := range o.Sandboxes {
			for _, c := range s.Containers {
				if c.Name == a.Container && (c.State == seam.Running || c.State == seam.Unknown && s.Ready) {
					t.Fatalf("%+v while %+v", a, c)
				}
			}
		}
		if len(o.Sandboxes) == 0 || !o.Sandboxes[0].Ready {
			t.Fatalf("%+v without a sandbox", a)
		}
	})
}

// TestWorkersUnderRandomFaults drives whole workers: pods come, change and go, containers die, the
// runtime fails, the agent and the node restart. The fake runtime refuses what must never be asked
// for; in the end what is wanted runs, and after its deletion nothing is left.
func TestWorkersUnderRandomFaults(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) { faults(t, rt) })
	})
}

func faults(t *testing.T, rt *rapid.T) {
	n := newNode(t)
	n.start()
	var failing atomic.Int32
	n.runtime.Fail = func(op string) error {
		if op != "StopContainer" && failing.Add(-1) >= 0 {
			return errors.New("injected")
		}
		return nil
	}
	pods := map[string]*corev1.Pod{}
	next := 0
	set := func() {
		var list []*corev1.Pod
		for _, p := range pods {
			list = append(list, p)
		}
		n.m.Set(list)
	}
	set()
	name := func() string {
		var names []string
		for uid := range pods {
			names = append(names, uid)
		}
		if len(names) == 0 {
			return ""
		}
		min := names[0]
		for _, s := range names {
			if s < min {
				min = s
			}
		}
		return min
	}
	for range rapid.IntRange(5, 25).Draw(rt, "steps") {
		switch rapid.IntRange(0, 8).Draw(rt, "step") {
		case 0, 1:
			uid := fmt.Sprintf("u%02d", next)
			next++
			pods[uid] = drawPod(rt, uid)
			for _, c := range append(pods[uid].Spec.InitContainers, pods[uid].Spec.Containers...) {
				b := fake.Behavior{ExitCode: int32(rapid.IntRange(0, 1).Draw(rt, "code")), StopAfter: time.Duration(rapid.IntRange(0, 25).Draw(rt, "stopAfter")) * time.Second}
				if rapid.Bool().Draw(rt, "exits") {
					b.ExitAfter = time.Duration(rapid.IntRange(1, 20).Draw(rt, "after")) * time.Second
				}
				n.runtime.Behave(c.Name, b)
			}
			set()
		case 2:
			if uid := name(); uid != "" {
				p := pods[uid].DeepCopy()
				if p.DeletionTimestamp == nil {
					deleted(int64(rapid.IntRange(0, 30).Draw(rt, "deletionGrace")))(p)
				}
				pods[uid] = p
				set()
			}
		case 3:
			if uid := name(); uid != "" {
				delete(pods, uid)
				set()
			}
		case 4:
			if uid := name(); uid != "" {
				p := pods[uid].DeepCopy()
				p.Spec.Containers[0].Image = fmt.Sprintf("i:%d", rapid.IntRange(1, 3).Draw(rt, "image"))
				pods[uid] = p
				set()
			}
		case 5:
			all, _ := n.runtime.List(context.Background())
			for _, s := range all {
				for _, c := range s.Containers {
					if c.State == seam.Running && rapid.Bool().Draw(rt, "kill") {
						n.runtime.Exit(c.ID, 137)
					}
				}
			}
		case 6:
			failing.Store(int32(rapid.IntRange(1, 5).Draw(rt, "faults")))
		case 7:
			n.stop()
			if rapid.Bool().Draw(rt, "reboot") {
				n.runtime.Reboot()
			}
			n.start()
			set()
		case 8:
		}
		n.after(time.Duration(rapid.IntRange(0, 40).Draw(rt, "pause")) * time.Second)
	}
	failing.Store(0)
	for name := range map[string]bool{"app0": true, "app1": true, "init0": true, "init1": true} {
		n.runtime.Behave(name, fake.Behavior{ExitAfter: map[bool]time.Duration{true: time.Second}[name[0] == 'i']})
	}
	n.after(20 * time.Minute)
	for uid, p := range pods {
		s := n.status(types.UID(uid))
		if p.DeletionTimestamp == nil && p.Spec.RestartPolicy == corev1.RestartPolicyAlways && len(p.Spec.InitContainers) == 0 && s.Phase != corev1.PodRunning {
			t.Fatalf("pod %s comes to rest as %s", uid, summary(s))
		}
		if p.DeletionTimestamp != nil && !n.finished[types.UID(uid)] {
			t.Fatalf("deleted pod %s comes to rest as %s", uid, summary(s))
		}
	}
	n.m.Set(nil)
	n.after(10 * time.Minute)
	if left, _ := n.runtime.List(context.Background()); len(left) != 0 || n.network.Attached() != 0 || len(n.store.rows) != 0 || len(n.volumes.Mounted) != 0 {
		t.Fatalf("left: %+v, %d addresses, %d records, %d volumes", left, n.network.Attached(), len(n.store.rows), len(n.volumes.Mounted))
	}
	n.stop()
}
