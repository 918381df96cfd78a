package podgc

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
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

// world is a stand-in API with two nodes that come, go and lose their links, their pods, and the controller, which may stop at
// any write.
type world struct {
	t      *rapid.T
	api    *cachetest.API
	client kubernetes.Interface // of the test
	server *cachetest.Process

	mu       sync.Mutex
	gone     map[string]time.Time // nodes that are not there
	cut      map[string]time.Time // that have no link
	linked   map[string]time.Time // since they have had one again
	placed   map[string]time.Time // pods, or when they were asked to go
	started  time.Time
	well     bool
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

func newWorld(t *rapid.T) *world {
	w := &world{t: t, api: cachetest.New(), gone: map[string]time.Time{}, cut: map[string]time.Time{}, linked: map[string]time.Time{}, placed: map[string]time.Time{}}
	w.client = w.api.Client()
	w.api.Asked = w.asked
	w.addNode("a")
	w.addNode("b")
	w.server = w.api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		w.mu.Lock()
		w.started, w.well = time.Now(), true
		w.mu.Unlock()
		return New(Inputs{Client: client, Nodes: set.Nodes(), Pods: set.Pods(), Presence: w, Log: slog.New(slog.DiscardHandler)})
	})
	return w
}

func (w *world) addNode(name string) {
	w.mu.Lock()
	delete(w.gone, name)
	w.mu.Unlock()
	_, _ = w.client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}, metav1.CreateOptions{})
}

func (w *world) pods() []*corev1.Pod { return cachetest.All[corev1.Pod](w.api, "", "pods") }

func (w *world) node(name string) *corev1.Node {
	for _, n := range cachetest.All[corev1.Node](w.api, "", "nodes") {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// limit is when a pod may be removed, at the earliest; ok is false if it may not. from is since when the server may know. It is
// written apart from what it tests, and more simply.
func (w *world) limit(p *corev1.Pod, from time.Time) (at time.Time, ok bool) {
	asked := p.DeletionTimestamp != nil
	n := w.node(p.Spec.NodeName)
	switch {
	case p.Spec.NodeName == "":
		return w.placed[p.Name], asked
	case n == nil:
		at = w.gone[p.Spec.NodeName]
		for _, t := range []time.Time{w.placed[p.Name], from} {
			if !from.IsZero() && t.After(at) {
				at = t
			}
		}
		return at.Add(40 * time.Second), true
	case !asked:
		return at, false
	}
	if len(n.Spec.Taints) > 0 && n.Status.Conditions[0].Status != corev1.ConditionTrue {
		return w.placed[p.Name], true // a person has said that the node is dead
	}
	kill, fenced := link.FenceTold(p.Status.Conditions)
	_, cut := w.cut[n.Name]
	return w.held(n.Name).Add(link.FencePassed(kill)), fenced && cut
}

// asked looks at what the controller is about to write.
func (w *world) asked(a clienttesting.Action) {
	d, ok := a.(clienttesting.DeleteActionImpl)
	if !ok {
		return
	}
	all := w.pods()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		if p.Name != d.GetName() {
			continue
		}
		if at, ok := w.limit(p, time.Time{}); !ok || at.After(time.Now()) {
			w.problems = append(w.problems, fmt.Sprintf("%s on %q is removed at %v; it may be at %v (%v)", p.Name, p.Spec.NodeName, time.Now(), at, ok))
		}
		if !pods.IsFinished(p) {
			w.problems = append(w.problems, fmt.Sprintf("%s is removed and nobody is told that it has ended", p.Name))
		}
	}
}

// fine fails the test with what was found, and with pods that should have been removed.
func (w *world) fine() {
	synctest.Wait()
	all := w.pods()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range all {
		if at, ok := w.limit(p, w.started); w.well && ok && len(p.Finalizers) == 0 && time.Since(at) > time.Second && time.Since(w.linked[p.Spec.NodeName]) > time.Second {
			w.problems = append(w.problems, fmt.Sprintf("%s on %q is there at %v, but is to be removed at %v", p.Name, p.Spec.NodeName, time.Now(), at))
		}
	}
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

func (w *world) steps() map[string]func(*rapid.T) {
	ctx, all := context.Background(), w.client.CoreV1().Pods("default")
	name := rapid.SampledFrom([]string{"a", "b"})
	locked := func(do func()) { w.mu.Lock(); defer w.mu.Unlock(); do() }
	one := func(t *rapid.T, do func(*corev1.Pod)) {
		if has := w.pods(); len(has) > 0 {
			do(has[rapid.IntRange(0, len(has)-1).Draw(t, "pod")])
		}
	}
	ask := func(t *rapid.T) {
		one(t, func(p *corev1.Pod) {
			if p.DeletionTimestamp == nil {
				locked(func() { w.placed[p.Name] = time.Now() })
				_ = all.Delete(ctx, p.Name, metav1.DeleteOptions{})
			}
		})
	}
	goes := func(t *rapid.T) {
		n := name.Draw(t, "node")
		locked(func() {
			if _, is := w.gone[n]; !is {
				w.gone[n] = time.Now()
			}
		})
		_ = w.client.CoreV1().Nodes().Delete(ctx, n, metav1.DeleteOptions{})
	}
	comes := func(t *rapid.T) { w.addNode(name.Draw(t, "node")) }
	return map[string]func(*rapid.T){
		"pod": func(t *rapid.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod", len(w.placed)), Namespace: "default"}}
			if rapid.Bool().Draw(t, "fenced") {
				kill := time.Duration(rapid.IntRange(70, 200).Draw(t, "kill")) * time.Second
				p.Status.Conditions = []corev1.PodCondition{link.Fence{Stop: kill - 10*time.Second, Kill: kill}.Condition(time.Now())}
			}
			if p.Spec.NodeName = rapid.SampledFrom([]string{"a", "b", "", "b"}).Draw(t, "node"); p.Spec.NodeName == "" {
				p.Finalizers = []string{"example.com/hold"} // or the API itself removes it
			}
			locked(func() { w.placed[p.Name] = time.Now() })
			if _, err := all.Create(ctx, p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		"ask": ask, "ask again": ask,
		"set free": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) { p.Finalizers = nil; _, _ = all.Update(ctx, p, metav1.UpdateOptions{}) })
		},
		"node goes": goes, "node goes again": goes,
		"node comes": comes, "node comes again": comes,
		"link": func(t *rapid.T) {
			n := name.Draw(t, "node")
			status := corev1.ConditionTrue
			locked(func() {
				if _, cut := w.cut[n]; cut {
					delete(w.cut, n)
					w.linked[n] = time.Now()
				} else {
					w.cut[n], status = time.Now(), corev1.ConditionUnknown
				}
			})
			if node := w.node(n); node != nil { // as nodelifecycle tells, later
				node.Status.Conditions[0].Status = status
				_, _ = w.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
			}
		},
		"out of service": func(t *rapid.T) {
			if node := w.node(name.Draw(t, "node")); node != nil {
				locked(func() {
					for p := range w.placed {
						w.placed[p] = time.Now()
					}
				})
				if len(node.Spec.Taints) > 0 {
					node.Spec.Taints = nil
				} else {
					node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
				}
				_, _ = w.client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
			}
		},
		"crash": func(t *rapid.T) {
			locked(func() { w.well = false })
			w.server.CrashAfter(rapid.Int64Range(0, 3).Draw(t, "writes"))
		},
		"stumble": func(t *rapid.T) {
			locked(func() { w.well = false })
			w.server.Stumble(rapid.Int64Range(1, 4).Draw(t, "every"))
		},
		"restart": func(*rapid.T) { w.server.Restart() }, "start anew": func(*rapid.T) { w.server.Restart() },
		"lose place": func(*rapid.T) { w.api.Source.Quietly(func() {}) },
		"wait": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{25 * time.Second, 41 * time.Second, 4 * time.Minute}).Draw(t, "waits"))
		},
	}
}

// Random nodes, links, pods, failures and crashes between any two writes: no pod is removed that its node may still run, or
// whose node has not been gone for long enough; those that nobody else removes are, in time; and all becomes quiet.
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
			}
			for range rapid.IntRange(5, 30).Draw(t, "steps") {
				steps[rapid.SampledFrom(names).Draw(t, "step")](t)
				w.fine()
				time.Sleep(rapid.SampledFrom([]time.Duration{0, 5 * time.Millisecond, 3 * time.Second, 15 * time.Second}).Draw(t, "sleeps"))
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
