package tainteviction

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

// world is a stand-in API with two nodes whose taints and links come and go, their pods, and the controller, which may stop at
// any write.
type world struct {
	t      *rapid.T
	api    *cachetest.API
	client kubernetes.Interface // of the test
	server *cachetest.Process

	mu       sync.Mutex
	since    map[string]time.Time // that a node has a taint, by "node taint"
	bound    map[string]time.Time // that a pod has been on its node
	changed  map[string]time.Time // what a pod tolerates
	cut      map[string]time.Time // that a node has had no link
	linked   map[string]time.Time // since a node has had one again
	started  time.Time            // the server
	well     bool                 // and it has not failed since
	problems []string
}

// Online, Held and Changes make the world a Presence.
func (w *world) Online(node string) (bool, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, cut := w.cut[node]
	return !cut, at
}

func (w *world) Held(node string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held(node)
}

func (w *world) held(node string) time.Time {
	if at := w.cut[node]; at.After(w.started) {
		return at
	}
	return w.started
}

func (w *world) Changes() <-chan string { return nil }

var kinds = []string{"fire", "flood", corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, api: cachetest.New(), since: map[string]time.Time{}, bound: map[string]time.Time{}, changed: map[string]time.Time{}, linked: map[string]time.Time{}, cut: map[string]time.Time{}}
	w.client = w.api.Client()
	w.api.Asked = w.asked
	w.addNode("a")
	w.addNode("b")
	w.server = w.api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		w.mu.Lock()
		w.started, w.well = time.Now(), true
		w.mu.Unlock()
		return New(Inputs{Client: client, Events: &record.FakeRecorder{}, Nodes: set.Nodes(), Pods: set.Pods(), Presence: w, Log: slog.New(slog.DiscardHandler)})
	})
	return w
}

func (w *world) addNode(name string) {
	_, _ = w.client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
}

func (w *world) pods() []*corev1.Pod { return cachetest.All[corev1.Pod](w.api, "", "pods") }

// limit is when a pod may go, at the earliest, and why; ok is false if it may not. from is since when the server may know of
// a taint. It is written apart from what it tests, and more simply.
func (w *world) limit(p *corev1.Pod, from time.Time) (at time.Time, why string, ok bool) {
	absent := false
	for _, taint := range kinds {
		on, is := w.since[p.Spec.NodeName+" "+taint]
		if !is {
			continue
		}
		for _, t := range []time.Time{w.bound[p.Name], from} {
			if t.After(on) {
				on = t
			}
		}
		gone := taint == corev1.TaintNodeUnreachable || taint == corev1.TaintNodeNotReady
		absent = absent || gone
		tolerated, seconds := false, int64(-1)
		for _, t := range p.Spec.Tolerations {
			if t.Key != taint && t.Key != "" {
				continue
			}
			tolerated = true
			if s := t.TolerationSeconds; s != nil && (seconds < 0 || *s < seconds) {
				seconds = max(*s, 0)
			}
		}
		if !tolerated && !gone {
			seconds = 0
		}
		if goes := on.Add(time.Duration(seconds) * time.Second); seconds >= 0 && (!ok || goes.Before(at)) {
			at, why, ok = goes, taint, true
		}
	}
	kill, fenced := link.FenceTold(p.Status.Conditions)
	if _, cut := w.cut[p.Spec.NodeName]; ok && fenced && cut && absent {
		if passed := w.held(p.Spec.NodeName).Add(link.FencePassed(kill)); passed.After(at) {
			at, why = passed, "its fence"
		}
	}
	return at, why, ok
}

// asked looks at what the controller is about to write.
func (w *world) asked(a clienttesting.Action) {
	all := w.pods()
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := a.(clienttesting.DeleteActionImpl)
	if !ok {
		if p, ok := a.(clienttesting.PatchActionImpl); !ok || p.GetSubresource() != "status" {
			w.problems = append(w.problems, fmt.Sprintf("it writes %v", a))
		}
		return
	}
	at := slices.IndexFunc(all, func(p *corev1.Pod) bool { return p.Name == d.GetName() })
	if at < 0 {
		return
	}
	p := all[at]
	if c := pods.Condition(p, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "DeletionByTaintManager" {
		w.problems = append(w.problems, fmt.Sprintf("%s is deleted and has no mark: %v", p.Name, p.Status.Conditions))
	}
	if goes, why, ok := w.limit(p, time.Time{}); !ok || goes.After(time.Now()) {
		w.problems = append(w.problems, fmt.Sprintf("%s is deleted at %v, %v after the start; because of %q it may be at %v (%v)", p.Name, time.Now(), time.Since(w.started), why, goes, ok))
	}
}

// fine fails the test with what was found, and with pods that should have gone.
func (w *world) fine() {
	synctest.Wait()
	all := w.pods()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		from := w.started
		if at := w.changed[p.Name]; at.After(from) {
			from = at // what is limited only now counts from now
		}
		at, why, ok := w.limit(p, from)
		late := time.Second
		if _, fenced := link.FenceTold(p.Status.Conditions); fenced {
			late += backCheck // nobody tells that its node is back
			if back := w.linked[p.Spec.NodeName]; back.After(at) {
				at = back
			}
		}
		if w.well && ok && pods.IsActive(p) && w.exists(p.Spec.NodeName) && time.Since(at) > late {
			w.problems = append(w.problems, fmt.Sprintf("%s is there at %v, but because of %s it goes at %v", p.Name, time.Now(), why, at))
		}
	}
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

func (w *world) exists(node string) bool {
	return slices.ContainsFunc(cachetest.All[corev1.Node](w.api, "", "nodes"), func(n *corev1.Node) bool { return n.Name == node })
}

// taint adds a taint to a node, or takes it away.
func (w *world) taint(node, key string) {
	ctx, nodes := context.Background(), w.client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return
	}
	w.mu.Lock()
	is := func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoExecute }
	if slices.ContainsFunc(n.Spec.Taints, is) {
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, is)
		delete(w.since, node+" "+key)
	} else {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute})
		w.since[node+" "+key] = time.Now()
	}
	w.mu.Unlock()
	if _, err := nodes.Update(ctx, n, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func seconds(t *rapid.T) *int64 {
	n := rapid.SampledFrom([]int64{-2, -1, 0, 3, 20, 60}).Draw(t, "seconds")
	if n == -2 {
		return nil
	}
	return &n
}

func (w *world) steps() map[string]func(*rapid.T) {
	ctx, all := context.Background(), w.client.CoreV1().Pods("default")
	node := rapid.SampledFrom([]string{"a", "b"})
	one := func(t *rapid.T, do func(*corev1.Pod)) {
		if has := pods.Filter(w.pods(), pods.IsActive); len(has) > 0 {
			do(has[rapid.IntRange(0, len(has)-1).Draw(t, "pod")])
		}
	}
	locked := func(do func()) { w.mu.Lock(); defer w.mu.Unlock(); do() }
	otherwise := func(t *rapid.T) {
		one(t, func(p *corev1.Pod) {
			if n := len(p.Spec.Tolerations); n > 0 {
				p.Spec.Tolerations[rapid.IntRange(0, n-1).Draw(t, "toleration")].TolerationSeconds = seconds(t)
				locked(func() { w.changed[p.Name] = time.Now() })
				_, _ = all.Update(ctx, p, metav1.UpdateOptions{})
			}
		})
	}
	restart := func(*rapid.T) { w.server.Restart() }
	taint := func(t *rapid.T) { w.taint(node.Draw(t, "node"), rapid.SampledFrom(kinds).Draw(t, "taint")) }
	return map[string]func(*rapid.T){
		"pod": func(t *rapid.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod", len(w.bound)), Namespace: "default"}}
			for _, key := range append([]string{""}, kinds...) {
				if rapid.IntRange(0, 2).Draw(t, "tolerates") > 0 && (key != "" || rapid.IntRange(0, 5).Draw(t, "all") == 0) {
					p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds(t)})
				}
			}
			if rapid.Bool().Draw(t, "fenced") {
				kill := time.Duration(rapid.IntRange(70, 200).Draw(t, "kill")) * time.Second
				p.Status.Conditions = []corev1.PodCondition{link.Fence{Stop: kill - 10*time.Second, Kill: kill}.Condition(time.Now())}
			}
			locked(func() { w.bound[p.Name] = time.Now() })
			p.Spec.NodeName = node.Draw(t, "node")
			if _, err := all.Create(ctx, p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"taint": taint, "another": taint, "and another": taint,
		"other effect": func(t *rapid.T) {
			n, err := w.client.CoreV1().Nodes().Get(ctx, node.Draw(t, "node"), metav1.GetOptions{})
			if err == nil && len(n.Spec.Taints) < 3 {
				n.Spec.Taints = append([]corev1.Taint{{Key: "fire", Effect: corev1.TaintEffectNoSchedule}}, n.Spec.Taints...)
				_, _ = w.client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
			}
		},
		"tolerate otherwise": otherwise, "tolerate anew": otherwise,
		"finish": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodSucceeded
				_, _ = all.UpdateStatus(ctx, p, metav1.UpdateOptions{})
			})
		},
		"end": func(*rapid.T) {
			for _, p := range w.pods() {
				if p.DeletionTimestamp != nil {
					w.api.Advance(p, "")
				}
			}
		},
		"link": func(t *rapid.T) {
			n := node.Draw(t, "node")
			locked(func() {
				if _, cut := w.cut[n]; cut {
					delete(w.cut, n)
					w.linked[n] = time.Now()
				} else {
					w.cut[n] = time.Now()
				}
			})
			w.taintIf(n, corev1.TaintNodeUnreachable, w.cut[n].IsZero())
		},
		"node goes": func(t *rapid.T) {
			n := node.Draw(t, "node")
			locked(func() {
				for _, key := range kinds {
					delete(w.since, n+" "+key)
				}
			})
			_ = w.client.CoreV1().Nodes().Delete(ctx, n, metav1.DeleteOptions{})
		},
		"node comes": func(t *rapid.T) { w.addNode(node.Draw(t, "node")) },
		"crash": func(t *rapid.T) {
			locked(func() { w.well = false })
			w.server.CrashAfter(rapid.Int64Range(0, 3).Draw(t, "writes"))
		},
		"stumble": func(t *rapid.T) {
			locked(func() { w.well = false })
			w.server.Stumble(rapid.Int64Range(1, 4).Draw(t, "every"))
		},
		"restart": restart, "start anew": restart, "start again": restart,
		"lose place": func(*rapid.T) { w.api.Source.Quietly(func() {}) },
		"wait": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{25 * time.Second, 70 * time.Second, 4 * time.Minute}).Draw(t, "waits"))
		},
	}
}

// taintIf takes the taint of a node that is back away; what has none gets it from the steps.
func (w *world) taintIf(node, key string, back bool) {
	if _, has := w.since[node+" "+key]; has == back {
		w.taint(node, key)
	}
}

// Random taints, tolerations, links, failures and crashes between any two writes: no pod goes before its time, none stays
// after it, and from a node that is away go only those that say so, fenced ones not before they have ended there.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cachetest.InBubble(t, rt, func(t *rapid.T) {
			w := newWorld(t)
			defer func() { w.server.Stop() }()
			w.fine()
			steps := w.steps()
			names := slices.Sorted(maps.Keys(steps))
			for range 3 {
				steps["pod"](t)
				w.fine()
				steps["taint"](t)
				w.fine()
			}
			for range rapid.IntRange(10, 40).Draw(t, "steps") {
				steps[rapid.SampledFrom(names).Draw(t, "step")](t)
				w.fine()
				time.Sleep(rapid.SampledFrom([]time.Duration{0, 5 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second, 15 * time.Second}).Draw(t, "sleeps"))
				w.fine()
			}
			w.server.Restart()
			time.Sleep(10 * time.Minute)
			w.fine()
			before := w.server.Writes()
			time.Sleep(time.Hour)
			w.fine()
			if n := w.server.Writes() - before; n != 0 {
				t.Fatalf("%d writes though nothing changed", n)
			}
		})
	})
}
