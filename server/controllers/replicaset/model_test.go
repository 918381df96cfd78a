package replicaset_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/replicaset"
	"bramble.dev/server/controllers/replicationcontroller"
)

// world is a stand-in API with two sets, whose pods change hands when somebody relabels them, the sets' controller, which may
// stop at any write, and two nodes of which one can be cut off.
type world struct {
	t      *rapid.T
	api    *cachetest.API
	client kubernetes.Interface // of the test
	server *cachetest.Process
	sets   sets
	// siblings: one owner rolls out over both sets, and where pods crowd is counted over both.
	siblings bool
	cut      bool

	mu       sync.Mutex
	failing  bool               // writes may fail
	turn     int                // counts what nodes have done
	choices  []*choice          // of this step
	moved    bool               // pods have changed hands in it
	free     map[types.UID]bool // pods that were nobody's when the step began
	problems []string
}

// choice is which pods of a set were given up at one moment.
type choice struct {
	set    *appsv1.ReplicaSet
	at     time.Time
	turn   int
	before []*corev1.Pod // all that there were
	given  map[types.UID]bool
}

// sets are the API of one of the two kinds, which are shown as ReplicaSets.
type sets interface {
	create(*appsv1.ReplicaSet) error
	all() []*appsv1.ReplicaSet
	update(*appsv1.ReplicaSet) error // of replicas, or of finalizers
	remove(name string, o metav1.DeleteOptions)
	start(kubernetes.Interface, *cache.Set) cachetest.Runner
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, api: cachetest.New()}
	w.client = w.api.Client()
	w.api.Asked, w.api.Wrote = w.asked, w.wrote
	w.sets = replicaSets{w.api, w.client}
	if rapid.Bool().Draw(t, "old kind") {
		w.sets = replicationControllers{w.api, w.client}
	}
	w.siblings = rapid.Bool().Draw(t, "siblings")
	w.add("web")
	w.add("other")
	w.server = w.api.Start(w.sets.start)
	return w
}

func (w *world) add(name string) {
	replicas := rapid.Int32Range(0, 5).Draw(w.t, "replicas of "+name)
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, Template: cachetest.Template(name, "1"),
		MinReadySeconds: rapid.SampledFrom([]int32{0, 4}).Draw(w.t, "minReady"),
	}}
	if w.siblings {
		yes := true
		set.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "d", UID: "d", Controller: &yes}}
	}
	if err := w.sets.create(set); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *world) pods() []*corev1.Pod { return cachetest.All[corev1.Pod](w.api, "", "pods") }

// set finds one by its UID.
func (w *world) set(uid types.UID) *appsv1.ReplicaSet {
	for _, s := range w.sets.all() {
		if s.UID == uid {
			return s
		}
	}
	return nil
}

func selects(set *appsv1.ReplicaSet, p *corev1.Pod) bool {
	return p.Labels["app"] == set.Spec.Selector.MatchLabels["app"]
}

// ofSet are the replicas that there are.
func (w *world) ofSet(set *appsv1.ReplicaSet) []*corev1.Pod {
	return pods.Filter(w.pods(), func(p *corev1.Pod) bool { return pods.IsActive(p) && metav1.IsControlledBy(p, set) && selects(set, p) })
}

func (w *world) pod(name string) *corev1.Pod {
	for _, p := range w.pods() {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// asked looks at what the controller is about to write.
func (w *world) asked(a clienttesting.Action) {
	if a.GetResource().Resource != "pods" {
		return
	}
	switch act := a.(type) {
	case clienttesting.CreateActionImpl:
		p := act.GetObject().(*corev1.Pod)
		set := w.set(metav1.GetControllerOf(p).UID)
		if set == nil || set.DeletionTimestamp != nil || !selects(set, p) {
			w.problem("a pod with labels %v is made for %v", p.Labels, set)
		}
	case clienttesting.DeleteActionImpl:
		if p := w.pod(act.GetName()); p != nil {
			w.gives(p)
		}
	case clienttesting.PatchActionImpl:
		if p := w.pod(act.GetName()); p != nil {
			w.claims(p, act.GetPatch())
		}
	}
}

// gives up a pod: its own, and no more than are too many.
func (w *world) gives(p *corev1.Pod) {
	var set *appsv1.ReplicaSet
	if ref := metav1.GetControllerOf(p); ref != nil {
		set = w.set(ref.UID)
	}
	if set == nil || set.DeletionTimestamp != nil || !selects(set, p) || !pods.IsActive(p) {
		w.problem("pod %s of %v is given up", p.Name, p.OwnerReferences)
		return
	}
	if n := len(w.ofSet(set)); n <= int(*set.Spec.Replicas) {
		w.problem("one of %d pods is given up, %d are wanted", n, *set.Spec.Replicas)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	at := slices.IndexFunc(w.choices, func(c *choice) bool { return c.set.UID == set.UID && c.at.Equal(now) && c.turn == w.turn })
	if at < 0 {
		at = len(w.choices)
		w.choices = append(w.choices, &choice{set: set, at: now, turn: w.turn, before: w.pods(), given: map[types.UID]bool{}})
	}
	w.choices[at].given[p.UID] = true
}

// claims a pod that matches and is nobody's, or lets one go that is its own and does not match.
func (w *world) claims(p *corev1.Pod, patch []byte) {
	var said struct {
		Metadata struct {
			UID             types.UID
			OwnerReferences []struct {
				Patch      string `json:"$patch"`
				UID        types.UID
				Controller *bool
			}
		}
	}
	if err := json.Unmarshal(patch, &said); err != nil || len(said.Metadata.OwnerReferences) != 1 || said.Metadata.UID != p.UID {
		w.problem("a patch of %s: %s", p.Name, patch)
		return
	}
	w.mu.Lock()
	w.moved = true
	w.mu.Unlock()
	ref := said.Metadata.OwnerReferences[0]
	set, now := w.set(ref.UID), metav1.GetControllerOf(p)
	if set == nil || set.DeletionTimestamp != nil {
		w.problem("%s is claimed or let go by one that is gone: %s", p.Name, patch)
		return
	}
	switch {
	case ref.Patch == "delete" && (now == nil || now.UID != set.UID || selects(set, p)):
		w.problem("%s lets go of %s, which has labels %v and is %v's", set.Name, p.Name, p.Labels, now)
	case ref.Patch == "" && (now != nil || !selects(set, p) || !pods.IsActive(p) || ref.Controller == nil || !*ref.Controller):
		w.problem("%s claims %s, which has labels %v and is %v's: %s", set.Name, p.Name, p.Labels, now, patch)
	}
}

// wrote looks at every write.
func (w *world) wrote(verb string, gr schema.GroupResource, subresource string, object runtime.Object) {
	p, ok := object.(*corev1.Pod)
	if !ok || verb != "create" || subresource != "" || metav1.GetControllerOf(p) == nil {
		return
	}
	set := w.set(metav1.GetControllerOf(p).UID)
	if set == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	free := pods.Filter(w.pods(), func(p *corev1.Pod) bool {
		return w.free[p.UID] && pods.IsActive(p) && metav1.GetControllerOf(p) == nil && selects(set, p)
	})
	if n := len(w.ofSet(set)) + len(free); n > int(*set.Spec.Replicas) {
		w.problems = append(w.problems, fmt.Sprintf("with %s %s has %d pods, %d of which are free, and wants %d", p.Name, set.Name, n, len(free), *set.Spec.Replicas))
	}
}

// ranked holds that those that were given up are the least useful, as upstream's ActivePodsWithRanks has it.
func (w *world) ranked() {
	for _, c := range w.choices {
		// What the caches do not show yet is not counted.
		alone := !w.moved && !w.failing && !slices.ContainsFunc(w.choices, func(o *choice) bool { return o != c && o.at.Equal(c.at) })
		crowd := map[string]int{}
		for _, p := range c.before {
			ref := metav1.GetControllerOf(p)
			if alone && ref != nil && pods.IsActive(p) && (ref.UID == c.set.UID || w.siblings && w.set(ref.UID) != nil) {
				crowd[p.Spec.NodeName]++
			}
		}
		own := pods.Filter(c.before, func(p *corev1.Pod) bool {
			return pods.IsActive(p) && metav1.IsControlledBy(p, c.set) && selects(c.set, p)
		})
		for _, given := range own {
			for _, kept := range own {
				if c.given[given.UID] && !c.given[kept.UID] && useful(given, crowd) > useful(kept, crowd) {
					w.problem("%s (%s) is given up and %s (%s) kept", given.Name, useful(given, crowd), kept.Name, useful(kept, crowd))
				}
			}
		}
	}
}

// useful gives texts that sort as pods do by their use.
func useful(p *corev1.Pod, crowd map[string]int) string {
	phase := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}[p.Status.Phase]
	cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		cost = 0
	}
	return fmt.Sprintf("%t %d %t %06d %06d", p.Spec.NodeName != "", phase, pods.IsReady(p), 5000+cost, 5000-crowd[p.Spec.NodeName])
}

// fine fails the test with what was found in a step.
func (w *world) fine() {
	synctest.Wait()
	w.ranked()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.choices, w.moved, w.free = nil, false, map[types.UID]bool{}
	for _, p := range w.pods() {
		w.free[p.UID] = metav1.GetControllerOf(p) == nil
	}
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

// nodes bring pods forward.
func (w *world) nodes(place func() string) {
	for _, p := range w.pods() {
		synctest.Wait()
		w.mu.Lock()
		w.turn++
		w.mu.Unlock()
		if !w.cut || p.Spec.NodeName != "b" {
			w.api.Advance(p, place())
		}
	}
}

func (w *world) change(p *corev1.Pod) {
	_, _ = w.client.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{})
}

func (w *world) steps() map[string]func(*rapid.T) {
	ctx, all := context.Background(), w.client.CoreV1().Pods("default")
	one := func(t *rapid.T, do func(*corev1.Pod)) {
		if has := w.pods(); len(has) > 0 {
			do(has[rapid.IntRange(0, len(has)-1).Draw(t, "pod")])
		}
	}
	label := rapid.SampledFrom([]string{"web", "other", "none"})
	scale := func(t *rapid.T) {
		if sets := w.sets.all(); len(sets) > 0 {
			set := rapid.SampledFrom(sets).Draw(t, "set")
			*set.Spec.Replicas = rapid.Int32Range(0, 6).Draw(t, "replicas")
			_ = w.sets.update(set)
		}
	}
	return map[string]func(*rapid.T){
		"scale": scale, "scale again": scale,
		"relabel": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) { p.Labels["app"] = label.Draw(t, "label"); w.change(p) })
		},
		"free pod": func(t *rapid.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "free-", Labels: map[string]string{"app": label.Draw(t, "label")}}}
			_, _ = all.Create(ctx, p, metav1.CreateOptions{})
		},
		"cost": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) {
				p.Annotations = map[string]string{corev1.PodDeletionCost: rapid.SampledFrom([]string{"-5", "0", "7", "100", "x"}).Draw(t, "cost")}
				w.change(p)
			})
		},
		"delete": func(t *rapid.T) { one(t, func(p *corev1.Pod) { _ = all.Delete(ctx, p.Name, metav1.DeleteOptions{}) }) },
		"phase": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) {
				if p.Spec.NodeName == "" || pods.IsFinished(p) {
					return
				}
				p = cachetest.Running(p, rapid.Bool().Draw(t, "ready"), time.Now())
				p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodRunning, corev1.PodUnknown, corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")
				_, _ = all.UpdateStatus(ctx, p, metav1.UpdateOptions{})
			})
		},
		"nodes": func(t *rapid.T) {
			w.nodes(func() string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node") })
		},
		"cut": func(*rapid.T) { w.cut = !w.cut },
		"delete set": func(t *rapid.T) {
			how := rapid.SampledFrom([]metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan}).Draw(t, "how")
			if sets := w.sets.all(); len(sets) > 0 {
				w.sets.remove(rapid.SampledFrom(sets).Draw(t, "set").Name, metav1.DeleteOptions{PropagationPolicy: &how})
			}
		},
		"create set": func(*rapid.T) { w.restore() },
		"crash":      func(t *rapid.T) { w.failing = true; w.server.CrashAfter(rapid.Int64Range(0, 6).Draw(t, "writes")) },
		"restart":    func(*rapid.T) { w.failing = false; w.server.Restart() },
		"stumble":    func(t *rapid.T) { w.failing = true; w.server.Stumble(rapid.Int64Range(0, 4).Draw(t, "every")) },
		"lose place": func(*rapid.T) { w.api.Source.Quietly(func() {}) },
		"wait":       func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second) },
	}
}

// restore lets sets go that only wait for the garbage collector, and makes those that are not there.
func (w *world) restore() {
	have := map[string]bool{}
	for _, s := range w.sets.all() {
		if s.DeletionTimestamp == nil {
			have[s.Name] = true
			continue
		}
		s.Finalizers = nil
		_ = w.sets.update(s)
	}
	for _, name := range []string{"web", "other"} {
		if !have[name] {
			w.add(name)
		}
	}
}

// Random changes, failures and crashes between any two writes: there are never more or fewer pods through the controller's
// doing than are wanted, no pod of another's is touched, the least useful go first, and in the end all is as wanted and quiet.
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
				w.fine()
				time.Sleep(time.Duration(rapid.IntRange(0, 1200).Draw(t, "ms")) * time.Millisecond)
				w.fine()
			}
			w.finish()
		})
	})
}

func (w *world) finish() {
	w.cut = false
	w.restore()
	w.server.Restart()
	for range 20 {
		time.Sleep(5 * time.Second)
		w.fine()
		w.nodes(func() string { return "a" })
	}
	time.Sleep(3 * time.Minute)
	w.fine()
	for _, set := range w.sets.all() {
		n, s := *set.Spec.Replicas, set.Status
		if has := int32(len(w.ofSet(set))); has != n || s.Replicas != n || s.ReadyReplicas != n || s.AvailableReplicas != n || s.FullyLabeledReplicas != n {
			w.t.Fatalf("%s has %d of %d pods and says %+v", set.Name, has, n, s)
		}
		if t := s.TerminatingReplicas; s.ObservedGeneration != set.Generation || len(s.Conditions) > 0 || t != nil && *t != 0 {
			w.t.Fatalf("%s is at generation %d and says %+v", set.Name, set.Generation, s)
		}
		for _, p := range pods.Filter(w.pods(), pods.IsActive) {
			if mine := metav1.IsControlledBy(p, set); mine && !selects(set, p) || metav1.GetControllerOf(p) == nil && selects(set, p) {
				w.t.Fatalf("%s with labels %v is %v's", p.Name, p.Labels, p.OwnerReferences)
			}
		}
	}
	before := w.server.Writes()
	time.Sleep(time.Hour)
	w.fine()
	if n := w.server.Writes() - before; n != 0 {
		w.t.Fatalf("%d writes though nothing changed", n)
	}
}

type replicaSets struct {
	api    *cachetest.API
	client kubernetes.Interface
}

func (s replicaSets) create(rs *appsv1.ReplicaSet) error {
	_, err := s.client.AppsV1().ReplicaSets("default").Create(context.Background(), rs, metav1.CreateOptions{})
	return err
}
func (s replicaSets) all() []*appsv1.ReplicaSet {
	return cachetest.All[appsv1.ReplicaSet](s.api, "apps", "replicasets")
}
func (s replicaSets) update(rs *appsv1.ReplicaSet) error {
	_, err := s.client.AppsV1().ReplicaSets("default").Update(context.Background(), rs, metav1.UpdateOptions{})
	return err
}
func (s replicaSets) remove(name string, o metav1.DeleteOptions) {
	_ = s.client.AppsV1().ReplicaSets("default").Delete(context.Background(), name, o)
}
func (s replicaSets) start(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
	return replicaset.New(replicaset.Inputs{Client: client, Events: &record.FakeRecorder{}, ReplicaSets: set.ReplicaSets(), Pods: set.Pods(), Log: slog.New(slog.DiscardHandler)})
}

type replicationControllers struct {
	api    *cachetest.API
	client kubernetes.Interface
}

func (s replicationControllers) create(rs *appsv1.ReplicaSet) error {
	rc := &corev1.ReplicationController{ObjectMeta: rs.ObjectMeta, Spec: corev1.ReplicationControllerSpec{
		Replicas: rs.Spec.Replicas, MinReadySeconds: rs.Spec.MinReadySeconds, Selector: rs.Spec.Selector.MatchLabels, Template: &rs.Spec.Template,
	}}
	_, err := s.client.CoreV1().ReplicationControllers("default").Create(context.Background(), rc, metav1.CreateOptions{})
	return err
}
func (s replicationControllers) all() (out []*appsv1.ReplicaSet) {
	for _, rc := range cachetest.All[corev1.ReplicationController](s.api, "", "replicationcontrollers") {
		rs := &appsv1.ReplicaSet{ObjectMeta: rc.ObjectMeta, Spec: appsv1.ReplicaSetSpec{Replicas: rc.Spec.Replicas, Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}}}
		rs.Status.Replicas, rs.Status.ReadyReplicas, rs.Status.AvailableReplicas = rc.Status.Replicas, rc.Status.ReadyReplicas, rc.Status.AvailableReplicas
		rs.Status.FullyLabeledReplicas, rs.Status.ObservedGeneration = rc.Status.FullyLabeledReplicas, rc.Status.ObservedGeneration
		rs.Status.Conditions = make([]appsv1.ReplicaSetCondition, len(rc.Status.Conditions))
		out = append(out, rs)
	}
	return out
}
func (s replicationControllers) update(rs *appsv1.ReplicaSet) error {
	client := s.client.CoreV1().ReplicationControllers("default")
	rc, err := client.Get(context.Background(), rs.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	rc.Spec.Replicas, rc.Finalizers = rs.Spec.Replicas, rs.Finalizers
	_, err = client.Update(context.Background(), rc, metav1.UpdateOptions{})
	return err
}
func (s replicationControllers) remove(name string, o metav1.DeleteOptions) {
	_ = s.client.CoreV1().ReplicationControllers("default").Delete(context.Background(), name, o)
}
func (s replicationControllers) start(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
	return replicationcontroller.New(replicationcontroller.Inputs{Client: client, Events: &record.FakeRecorder{}, ReplicationControllers: set.ReplicationControllers(), Pods: set.Pods(), Log: slog.New(slog.DiscardHandler)})
}
