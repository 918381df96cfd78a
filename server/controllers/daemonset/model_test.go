package daemonset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/revisions"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// template is of pods for workers.
func template(version string) corev1.PodTemplateSpec {
	t := cachetest.Template("d", version)
	t.Spec.NodeSelector = map[string]string{"role": "worker"}
	return t
}

// newDaemonSet makes one that may surge over and lack so many nodes.
func newDaemonSet(surge, unavailable, version string) *appsv1.DaemonSet {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", UID: "ds", Generation: 1},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}}, Template: template(version), RevisionHistoryLimit: ptr(int32(2)),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &s, MaxUnavailable: &u},
			},
		},
	}
}

type fataler interface {
	Fatalf(string, ...any)
	Helper()
}

// world is a DaemonSet, its pods, and nodes that can come, go, be tainted and
// be cut off.
type world struct {
	t        fataler
	ds       *appsv1.DaemonSet
	nodes    map[string]*corev1.Node
	cut      map[string]bool
	pods     map[string]*corev1.Pod
	history  []*appsv1.ControllerRevision
	failures map[string]bool // nodes whose last pod has just failed
	now      time.Time
	made     int
}

func newWorld(t fataler, ds *appsv1.DaemonSet, nodes ...string) *world {
	w := &world{t: t, ds: ds, nodes: map[string]*corev1.Node{}, cut: map[string]bool{}, pods: map[string]*corev1.Pod{}, failures: map[string]bool{}, now: start}
	for _, name := range nodes {
		w.nodes[name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"role": "worker"}}}
	}
	return w
}

// observe does in memory what the history does with the API.
func (w *world) observe() observed {
	w.now = w.now.Add(time.Second)
	wanted, err := revisions.New(w.ds, kind, &w.ds.Spec.Template)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	revisions.Sort(w.history)
	choice := revisions.Choose(w.history, wanted)
	current := choice.Current
	if current == nil {
		current = revisions.Named(wanted, w.ds.Name, pods.TemplateHash(&w.ds.Spec.Template, nil))
		w.history = append(w.history, current)
	}
	current.Revision = choice.Number
	revisions.Sort(w.history)
	o := observed{
		ds: w.ds, history: w.history, current: current, duplicates: choice.Duplicates, now: w.now,
		patience: func(node string) time.Duration {
			if w.failures[node] {
				return time.Second
			}
			return 0
		},
	}
	for _, node := range w.nodes {
		o.nodes = append(o.nodes, node)
	}
	for _, pod := range w.pods {
		o.pods = append(o.pods, pod)
	}
	return o
}

// apply does the first writes of a plan and then crashes; it says how many
// there were.
func (w *world) apply(p plan, most int) (writes int) {
	may := func() bool { writes++; return writes <= most }
	for _, node := range p.create {
		if may() {
			w.made++
			pod := newPod(w.ds, p.hash, node)
			pod.Name = fmt.Sprintf("d-%03d", w.made)
			pod.UID = types.UID(pod.Name)
			pod.CreationTimestamp = metav1.NewTime(w.now)
			pod.Status.Phase = corev1.PodPending
			w.pods[pod.Name] = pod
		}
	}
	for _, pod := range p.delete {
		if may() {
			w.ask(pod.Name)
		}
	}
	for _, e := range p.ended {
		if may() {
			w.failures[e.node] = e.pod.Status.Phase == corev1.PodFailed
			w.ask(e.pod.Name)
		}
	}
	for _, gone := range p.surplus {
		if may() {
			w.history = slices.DeleteFunc(w.history, func(r *appsv1.ControllerRevision) bool { return r.Name == gone.Name })
		}
	}
	if !equality.Semantic.DeepEqual(w.ds.Status, p.status) && may() {
		w.ds.Status = p.status
	}
	return writes
}

func (w *world) ask(name string) {
	asked := w.pods[name].DeepCopy()
	asked.DeletionTimestamp = ptr(metav1.NewTime(w.now))
	w.pods[name] = asked
}

func (w *world) setReady(name string, ready bool) {
	w.pods[name] = cachetest.Running(w.pods[name], ready, w.now)
}

// advance is scheduler, kubelet and the collector of lost pods for one pod.
func (w *world) advance(name string) bool {
	pod := w.pods[name]
	node := nodeOf(pod)
	switch {
	case w.nodes[node] == nil:
		if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
			return false
		}
		delete(w.pods, name)
	case w.cut[node]:
		return false
	case pod.DeletionTimestamp != nil:
		delete(w.pods, name)
	case pod.Spec.NodeName == "":
		bound := pod.DeepCopy()
		bound.Spec.NodeName = node
		w.pods[name] = bound
	case pods.IsFinished(pod) || pods.IsReady(pod):
		return false
	default:
		w.setReady(name, true)
	}
	return true
}

func keys[T any](m map[string]T) []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (w *world) available(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pods.IsAvailable(pod, w.ds.Spec.MinReadySeconds, w.now)
}

// served counts the wanted nodes that have an available pod which is not among those given up.
func (w *world) served(gone []*corev1.Pod) (served, wanted int) {
	fits := newFitter(w.ds)
	for name, node := range w.nodes {
		if start, _ := fits.fits(node); !start {
			continue
		}
		wanted++
		for _, pod := range w.pods {
			if nodeOf(pod) == name && w.available(pod) && !slices.ContainsFunc(gone, func(g *corev1.Pod) bool { return g.Name == pod.Name }) {
				served++
				break
			}
		}
	}
	return served, wanted
}

// check holds a plan against the promises.
func (w *world) check(p plan) {
	fits := newFitter(w.ds)
	surge, unavailable := bounds(w.ds, int(p.status.DesiredNumberScheduled))
	for _, name := range p.create {
		if start, _ := fits.fits(w.nodes[name]); !start {
			w.t.Fatalf("node %s gets a pod that it should not have", name)
		}
		running := 0
		for _, pod := range w.pods {
			if nodeOf(pod) != name || pods.IsFinished(pod) {
				continue
			}
			if surge == 0 {
				w.t.Fatalf("node %s gets a second pod", name)
			}
			if pod.DeletionTimestamp == nil {
				running++
			}
		}
		if running > 1 {
			w.t.Fatalf("node %s gets pod number %d", name, running+1)
		}
	}
	before, wanted := w.served(nil)
	after, _ := w.served(p.delete)
	if least := wanted - unavailable; after < before && after < least {
		w.t.Fatalf("%d of %d nodes are served, %d were, %d must be", after, wanted, before, least)
	}
	if w.ds.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		for _, pod := range p.delete {
			if node := w.nodes[nodeOf(pod)]; node != nil {
				if _, stay := fits.fits(node); stay && w.alone(pod) {
					w.t.Fatalf("%s is deleted by itself", pod.Name)
				}
			}
		}
	}
}

func (w *world) alone(pod *corev1.Pod) bool {
	for _, other := range w.pods {
		if other.Name != pod.Name && nodeOf(other) == nodeOf(pod) && pods.IsActive(other) {
			return false
		}
	}
	return true
}

func (w *world) step(most int) int {
	p := decide(w.observe())
	w.check(p)
	return w.apply(p, most)
}

const everything = 1 << 30

func (w *world) converge() {
	w.cut = map[string]bool{}
	for range 1000 {
		w.failures = map[string]bool{}
		waits := decide(w.observe()).wake > 0
		writes := w.step(everything)
		moved := false
		for _, name := range keys(w.pods) {
			moved = w.advance(name) || moved
		}
		if writes == 0 && !moved && !waits {
			return
		}
	}
	w.t.Fatalf("does not converge: %v", keys(w.pods))
}

// settled checks the end of all things.
func (w *world) settled() {
	fits := newFitter(w.ds)
	on := map[string]int{}
	rolling := w.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType
	current := w.observe().current
	for _, pod := range w.pods {
		on[nodeOf(pod)]++
		if rolling && pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != hashOf(current) {
			if start, _ := fits.fits(w.nodes[nodeOf(pod)]); start {
				w.t.Fatalf("%s on %s is old", pod.Name, nodeOf(pod))
			}
		}
	}
	desired := 0
	for name, node := range w.nodes {
		start, stay := fits.fits(node)
		if start {
			desired++
		}
		if on[name] > 1 || start != (on[name] == 1) && !(stay && !start) {
			w.t.Fatalf("node %s has %d pods, start %v, stay %v", name, on[name], start, stay)
		}
		delete(on, name)
	}
	if len(on) > 0 {
		w.t.Fatalf("pods of nodes that are gone: %v", on)
	}
	s := w.ds.Status
	if int(s.DesiredNumberScheduled) != desired || s.CurrentNumberScheduled != s.DesiredNumberScheduled || int(s.NumberAvailable) != desired || s.NumberUnavailable != 0 || int(s.NumberReady) != desired || s.ObservedGeneration != w.ds.Generation {
		w.t.Fatalf("%d nodes, status %+v", desired, s)
	}
	live := map[string]bool{hashOf(current): true}
	for _, pod := range w.pods {
		live[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	if len(w.history) > len(live)+2 {
		w.t.Fatalf("%d revisions, %d in use", len(w.history), len(live))
	}
}

func TestDaemonSetsKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SampledFrom([][2]string{{"0", "1"}, {"0", "2"}, {"0", "50%"}, {"1", "0"}, {"50%", "0"}, {"0", "0"}}).Draw(t, "limits")
		ds := newDaemonSet(limits[0], limits[1], "1")
		ds.Spec.MinReadySeconds = rapid.SampledFrom([]int32{0, 0, 3}).Draw(t, "minReady")
		w := newWorld(t, ds, "a", "b", "c", "d")
		w.converge()
		node := func(t *rapid.T) string {
			return rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "node")
		}
		// change replaces a node by a changed one.
		change := func(t *rapid.T, do func(*corev1.Node)) {
			if n := w.nodes[node(t)]; n != nil {
				n = n.DeepCopy()
				do(n)
				w.nodes[n.Name] = n
			}
		}
		some := func(t *rapid.T, do func(name string)) {
			if names := keys(w.pods); len(names) > 0 {
				do(rapid.SampledFrom(names).Draw(t, "pod"))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"template": func(t *rapid.T) {
				w.ds.Spec.Template = template(fmt.Sprint(rapid.IntRange(1, 5).Draw(t, "version")))
				w.ds.Generation++
			},
			"strategy": func(t *rapid.T) {
				w.ds.Spec.UpdateStrategy.Type = rapid.SampledFrom([]appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}).Draw(t, "type")
				w.ds.Generation++
			},
			"add": func(t *rapid.T) {
				if name := node(t); w.nodes[name] == nil {
					w.nodes[name] = newWorld(t, w.ds, name).nodes[name]
				}
			},
			"remove": func(t *rapid.T) { delete(w.nodes, node(t)) },
			"label": func(t *rapid.T) {
				change(t, func(n *corev1.Node) {
					n.Labels = map[string]string{"role": rapid.SampledFrom([]string{"worker", "other"}).Draw(t, "role")}
				})
			},
			"taint": func(t *rapid.T) {
				change(t, func(n *corev1.Node) {
					n.Spec.Taints = rapid.SampledFrom([][]corev1.Taint{
						nil,
						{{Key: "x", Effect: corev1.TaintEffectNoSchedule}},
						{{Key: "x", Effect: corev1.TaintEffectNoExecute}},
						{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}},
					}).Draw(t, "taints")
				})
			},
			"cut":     func(t *rapid.T) { name := node(t); w.cut[name] = !w.cut[name] },
			"step":    func(t *rapid.T) { w.step(everything) },
			"crash":   func(t *rapid.T) { w.step(rapid.IntRange(0, 4).Draw(t, "writes")) },
			"advance": func(t *rapid.T) { some(t, func(name string) { w.advance(name) }) },
			"all": func(t *rapid.T) {
				for _, name := range keys(w.pods) {
					w.advance(name)
				}
			},
			"delete":  func(t *rapid.T) { some(t, w.ask) },
			"unready": func(t *rapid.T) { some(t, func(name string) { w.setReady(name, false) }) },
			"fail": func(t *rapid.T) {
				some(t, func(name string) {
					failed := w.pods[name].DeepCopy()
					failed.Status = corev1.PodStatus{Phase: rapid.SampledFrom([]corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")}
					w.pods[name] = failed
				})
			},
		})
		w.converge()
		w.settled()
		if writes := w.step(everything); writes != 0 {
			t.Fatalf("%d writes though nothing changed", writes)
		}
	})
}
