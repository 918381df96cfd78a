package nodelifecycle

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

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/pods"
)

// world is a stand-in API with two nodes whose links are cut and come back, their pods, and the controller, which may stop at
// any write. What a node reports itself, dispatch writes: here the test does, while the node is there.
type world struct {
	t       *rapid.T
	api     *cachetest.API
	client  kubernetes.Interface // of the test
	server  *cachetest.Process
	changes chan string

	mu       sync.Mutex
	online   map[string]bool
	since    map[string]time.Time // of online's value
	started  time.Time            // the server
	well     bool                 // and it has not failed since
	lost     time.Time            // when a change of presence was last told to nobody
	problems []string
}

// Online, Held and Changes make the world a Presence.
func (w *world) Online(node string) (bool, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since := w.since[node]
	if !w.online[node] && since.Before(w.started) {
		since = w.started // a server that has just started has heard of nobody
	}
	return w.online[node], since
}

func (w *world) Held(string) time.Time { return time.Time{} }

func (w *world) Changes() <-chan string { return w.changes }

var reported = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable}

// means is the taints that a condition's status calls for, as upstream has it.
var means = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeReady:              {corev1.ConditionFalse: corev1.TaintNodeNotReady, corev1.ConditionUnknown: corev1.TaintNodeUnreachable},
	corev1.NodeMemoryPressure:     {corev1.ConditionTrue: corev1.TaintNodeMemoryPressure},
	corev1.NodeDiskPressure:       {corev1.ConditionTrue: corev1.TaintNodeDiskPressure},
	corev1.NodePIDPressure:        {corev1.ConditionTrue: corev1.TaintNodePIDPressure},
	corev1.NodeNetworkUnavailable: {corev1.ConditionTrue: corev1.TaintNodeNetworkUnavailable},
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, api: cachetest.New(), changes: make(chan string, 1000), online: map[string]bool{}, since: map[string]time.Time{}}
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

func (w *world) nodes() []*corev1.Node { return cachetest.All[corev1.Node](w.api, "", "nodes") }

func (w *world) node(name string) *corev1.Node {
	for _, n := range w.nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (w *world) pods() []*corev1.Pod { return cachetest.All[corev1.Pod](w.api, "", "pods") }

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// away is since when a node counts as away; ok is false if it does not yet. It is written apart from what it tests.
func (w *world) away(n *corev1.Node) (at time.Time, ok bool) {
	online, since := w.Online(n.Name)
	if n.CreationTimestamp.After(since) {
		since = n.CreationTimestamp.Time
	}
	patience := 40 * time.Second
	if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady }) {
		patience = time.Minute
	}
	at = since.Add(patience)
	return at, !online && !at.After(time.Now())
}

// asked looks at what the controller is about to write.
func (w *world) asked(a clienttesting.Action) {
	switch act := a.(type) {
	case clienttesting.UpdateActionImpl:
		said := act.GetObject().(*corev1.Node)
		now := w.node(said.Name)
		if now == nil || a.GetSubresource() != "status" {
			return
		}
		if _, ok := w.away(now); !ok && now.UID == said.UID && now.ResourceVersion == said.ResourceVersion {
			w.problem("%s is marked at %v and is not away", said.Name, time.Now())
		}
	case clienttesting.PatchActionImpl:
		for _, p := range w.pods() {
			if p.Name != act.GetName() {
				continue
			}
			n := w.node(p.Spec.NodeName)
			if c := nodes.Condition(n, corev1.NodeReady); c == nil || c.Status != corev1.ConditionUnknown {
				w.problem("%s is made not ready, its node says %+v", p.Name, c)
			}
		}
	default:
		w.problem("it writes %v", a)
	}
}

// fine fails the test with what was found, and with what is not as it should be while the server is well.
func (w *world) fine() {
	synctest.Wait()
	for _, n := range w.nodes() {
		w.mu.Lock()
		well, lost := w.well, w.lost
		w.mu.Unlock()
		if !well {
			break
		}
		at, away := w.away(n)
		ready := nodes.Condition(n, corev1.NodeReady)
		unknown := ready != nil && ready.Status == corev1.ConditionUnknown
		late := time.Second
		if time.Since(lost) < lookAtAll+time.Second {
			late += lookAtAll // a change was told to nobody; all are looked at from time to time
		}
		if away && !unknown && time.Since(at) > late {
			w.problem("%s is away since %v and says %+v", n.Name, at, ready)
		}
		w.tainted(n)
		for _, p := range w.pods() {
			if p.Spec.NodeName == n.Name && unknown && pods.IsActive(p) && pods.IsReady(p) && time.Since(w.since[p.Name]) > lookAtAll+time.Second {
				w.problem("%s is ready on %s, which is away", p.Name, n.Name)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

// tainted holds that a node has exactly the taints that follow from its state, and others' as they were.
func (w *world) tainted(n *corev1.Node) {
	want := map[string]bool{}
	for _, c := range n.Status.Conditions {
		key := means[c.Type][c.Status]
		if key == "" {
			continue
		}
		want[key+" NoSchedule"] = true
		if c.Type == corev1.NodeReady {
			want[key+" NoExecute"] = true
		}
	}
	if n.Spec.Unschedulable {
		want[corev1.TaintNodeUnschedulable+" NoSchedule"] = true
	}
	if n.Annotations["theirs"] != "" {
		want["theirs "+n.Annotations["theirs"]] = true
	}
	has := map[string]bool{}
	for _, t := range n.Spec.Taints {
		has[fmt.Sprint(t.Key, " ", t.Effect)] = true
		if t.Key != "theirs" && t.TimeAdded == nil {
			w.problem("%s has %s since nobody knows when", n.Name, t.Key)
		}
	}
	if !maps.Equal(want, has) || len(has) != len(n.Spec.Taints) {
		w.problem("%s has %v, wants %v", n.Name, n.Spec.Taints, want)
	}
}

// link cuts a node off, or brings it back; then it reports.
func (w *world) link(t *rapid.T, name string, told bool) {
	w.mu.Lock()
	w.online[name], w.since[name] = !w.online[name], time.Now()
	online := w.online[name]
	if !told {
		w.lost = time.Now()
	}
	w.mu.Unlock()
	if told {
		w.changes <- name
	}
	synctest.Wait()
	if online {
		w.report(t, name)
	}
}

// report is what a node that is there says of itself and its pods.
func (w *world) report(t *rapid.T, name string) {
	n := w.node(name)
	if online, _ := w.Online(name); n == nil || !online {
		return
	}
	n.Status.Conditions = nil
	for _, kind := range reported {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: rapid.SampledFrom([]corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse}).Draw(t, string(kind)),
		})
	}
	_, _ = w.client.CoreV1().Nodes().UpdateStatus(context.Background(), n, metav1.UpdateOptions{})
	synctest.Wait()
	for _, p := range w.pods() {
		if p.Spec.NodeName == name {
			w.ready(p, rapid.IntRange(0, 3).Draw(t, "ready") > 0)
		}
	}
}

func (w *world) ready(p *corev1.Pod, ready bool) {
	w.mu.Lock()
	w.since[p.Name] = time.Now()
	w.mu.Unlock()
	_, _ = w.client.CoreV1().Pods("default").UpdateStatus(context.Background(), cachetest.Running(p, ready, time.Now()), metav1.UpdateOptions{})
}

func (w *world) steps() map[string]func(*rapid.T) {
	ctx := context.Background()
	name := rapid.SampledFrom([]string{"a", "b"})
	change := func(t *rapid.T, do func(*corev1.Node)) {
		if n := w.node(name.Draw(t, "node")); n != nil {
			do(n)
			_, _ = w.client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		}
	}
	unwell := func() { w.mu.Lock(); defer w.mu.Unlock(); w.well = false }
	untold := func(t *rapid.T) { w.link(t, name.Draw(t, "node"), false) }
	cut := func(t *rapid.T) { w.link(t, name.Draw(t, "node"), true) }
	return map[string]func(*rapid.T){
		"link": cut, "another link": cut,
		"link, untold": untold, "another, untold": untold,
		"report": func(t *rapid.T) { w.report(t, name.Draw(t, "node")) },
		"cordon": func(t *rapid.T) { change(t, func(n *corev1.Node) { n.Spec.Unschedulable = !n.Spec.Unschedulable }) },
		"their taint": func(t *rapid.T) {
			change(t, func(n *corev1.Node) {
				effect := rapid.SampledFrom([]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute}).Draw(t, "effect")
				n.Annotations = map[string]string{"theirs": string(effect)}
				n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "theirs" })
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "theirs", Effect: effect})
			})
		},
		"taints taken": func(t *rapid.T) { // by somebody who does not know whose they are
			change(t, func(n *corev1.Node) { n.Spec.Taints, n.Annotations = nil, nil })
		},
		"pod": func(t *rapid.T) {
			p := cachetest.Running(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-"}, Spec: corev1.PodSpec{NodeName: name.Draw(t, "node")}}, false, time.Now())
			p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded}).Draw(t, "phase")
			_, _ = w.client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		},
		"late report": func(t *rapid.T) { // of a pod, under way when the link was cut
			if all := w.pods(); len(all) > 0 {
				w.ready(rapid.SampledFrom(all).Draw(t, "pod"), true)
			}
		},
		"node goes": func(t *rapid.T) {
			_ = w.client.CoreV1().Nodes().Delete(ctx, name.Draw(t, "node"), metav1.DeleteOptions{})
		},
		"node comes": func(t *rapid.T) {
			n := name.Draw(t, "node")
			w.addNode(n)
			w.report(t, n)
		},
		"crash":   func(t *rapid.T) { unwell(); w.server.CrashAfter(rapid.Int64Range(0, 3).Draw(t, "writes")) },
		"stumble": func(t *rapid.T) { unwell(); w.server.Stumble(rapid.Int64Range(1, 4).Draw(t, "every")) },
		"restart": func(*rapid.T) { w.server.Restart() }, "start anew": func(*rapid.T) { w.server.Restart() },
		"lose place": func(*rapid.T) { w.api.Source.Quietly(func() {}) },
		"wait": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{10 * time.Second, 41 * time.Second, time.Minute, 5 * time.Minute}).Draw(t, "waits"))
		},
		"wait long": func(*rapid.T) { time.Sleep(5 * time.Minute) },
	}
}

// Random links, reports, taints of others, failures and crashes between any two writes: a node that is there is never marked,
// one that is away is in time, its taints are exactly those of its state, its pods are not ready, and all becomes quiet.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cachetest.InBubble(t, rt, func(t *rapid.T) {
			w := newWorld(t)
			defer func() { w.server.Stop() }()
			w.fine()
			steps := w.steps()
			names := slices.Sorted(maps.Keys(steps))
			for range rapid.IntRange(5, 30).Draw(t, "steps") {
				steps[rapid.SampledFrom(names).Draw(t, "step")](t)
				w.settle()
				time.Sleep(rapid.SampledFrom([]time.Duration{0, 5 * time.Millisecond, time.Second, 15 * time.Second, 45 * time.Second}).Draw(t, "sleeps"))
				w.settle()
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

// settle gives the controller time for a second try, after a write that met somebody else's.
func (w *world) settle() {
	synctest.Wait()
	time.Sleep(50 * time.Millisecond)
	w.fine()
}
