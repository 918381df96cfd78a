package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

// world is a stand-in API with two budgets, pods of several owners that come, go and are evicted, and the controller, which
// may stop at any write.
type world struct {
	t      *rapid.T
	api    *cachetest.API
	client kubernetes.Interface // of the test
	server *cachetest.Process

	mu       sync.Mutex
	well     bool   // the server has not failed since its start
	between  func() // done once before the controller's next write of a status
	allowed  []eviction
	problems []string
}

// eviction is one that the API has allowed and that is still to happen.
type eviction struct {
	budget types.UID
	pod    string
	at     metav1.Time
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, api: cachetest.New()}
	w.client = w.api.Client()
	w.api.Asked = w.asked
	w.addOwner("d")
	for _, name := range []string{"old", "new", "alone", "db", "rc"} {
		w.addOwner(name)
	}
	for range 4 {
		w.addPod()
	}
	w.addBudget("web")
	w.addBudget("db")
	w.server = w.api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		w.mu.Lock()
		w.well = true
		w.mu.Unlock()
		return New(Inputs{
			Client: client, Events: &record.FakeRecorder{}, Budgets: set.PodDisruptionBudgets(), Pods: set.Pods(), ReplicationControllers: set.ReplicationControllers(),
			ReplicaSets: set.ReplicaSets(), Deployments: set.Deployments(), StatefulSets: set.StatefulSets(), Log: slog.New(slog.DiscardHandler),
		})
	})
	return w
}

var names = []string{"d", "old", "new", "alone", "db", "rc"}

// addOwner makes an owner of pods: old and new are d's.
func (w *world) addOwner(name string) {
	ctx, size := context.Background(), rapid.Int32Range(0, 6).Draw(w.t, "size of "+name)
	m := metav1.ObjectMeta{Name: name, Namespace: "default"}
	switch name {
	case "d":
		_, _ = w.client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{ObjectMeta: m, Spec: appsv1.DeploymentSpec{Replicas: &size}}, metav1.CreateOptions{})
	case "db":
		_, _ = w.client.AppsV1().StatefulSets("default").Create(ctx, &appsv1.StatefulSet{ObjectMeta: m, Spec: appsv1.StatefulSetSpec{Replicas: &size}}, metav1.CreateOptions{})
	case "rc":
		_, _ = w.client.CoreV1().ReplicationControllers("default").Create(ctx, &corev1.ReplicationController{ObjectMeta: m, Spec: corev1.ReplicationControllerSpec{Replicas: &size}}, metav1.CreateOptions{})
	default:
		if d := w.owner("d"); d != nil && name != "alone" {
			m.OwnerReferences = []metav1.OwnerReference{w.ref(d)}
		}
		_, _ = w.client.AppsV1().ReplicaSets("default").Create(ctx, &appsv1.ReplicaSet{ObjectMeta: m, Spec: appsv1.ReplicaSetSpec{Replicas: &size}}, metav1.CreateOptions{})
	}
}

// source is an owner of pods as it is in the API.
type source struct {
	metav1.Object
	kind, version string
	size          *int32
}

func (w *world) owner(name string) *source {
	for _, o := range w.owners() {
		if o.GetName() == name {
			return o
		}
	}
	return nil
}

func (w *world) owners() (out []*source) {
	for _, o := range cachetest.All[appsv1.Deployment](w.api, "apps", "deployments") {
		out = append(out, &source{o, "Deployment", "apps/v1", o.Spec.Replicas})
	}
	for _, o := range cachetest.All[appsv1.ReplicaSet](w.api, "apps", "replicasets") {
		out = append(out, &source{o, "ReplicaSet", "apps/v1", o.Spec.Replicas})
	}
	for _, o := range cachetest.All[appsv1.StatefulSet](w.api, "apps", "statefulsets") {
		out = append(out, &source{o, "StatefulSet", "apps/v1", o.Spec.Replicas})
	}
	for _, o := range cachetest.All[corev1.ReplicationController](w.api, "", "replicationcontrollers") {
		out = append(out, &source{o, "ReplicationController", "v1", o.Spec.Replicas})
	}
	return out
}

func (w *world) ref(o *source) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: o.version, Kind: o.kind, Name: o.GetName(), UID: o.GetUID(), Controller: &yes}
}

func (w *world) addPod() {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-", Labels: map[string]string{"app": rapid.SampledFrom([]string{"web", "web", "db"}).Draw(w.t, "app")}}}
	if o := w.owner(rapid.SampledFrom([]string{"old", "new", "alone", "db", "rc", "nobody"}).Draw(w.t, "owner")); o != nil {
		p.OwnerReferences = []metav1.OwnerReference{w.ref(o)}
	}
	p.Spec.NodeName = "node"
	p = cachetest.Running(p, rapid.IntRange(0, 3).Draw(w.t, "ready") > 0, time.Now())
	_, _ = w.client.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{})
}

func (w *world) spec(app string) policyv1.PodDisruptionBudgetSpec {
	v := intstr.Parse(rapid.SampledFrom([]string{"0", "1", "2", "4", "0%", "30%", "50%", "100%"}).Draw(w.t, "amount"))
	s := policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
	if rapid.Bool().Draw(w.t, "least") {
		s.MinAvailable = &v
	} else {
		s.MaxUnavailable = &v
	}
	return s
}

func (w *world) addBudget(name string) {
	_, _ = w.client.PolicyV1().PodDisruptionBudgets("default").Create(context.Background(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: w.spec(name)}, metav1.CreateOptions{})
}

func (w *world) pods() []*corev1.Pod { return cachetest.All[corev1.Pod](w.api, "", "pods") }

func (w *world) budgets() []*policyv1.PodDisruptionBudget {
	return cachetest.All[policyv1.PodDisruptionBudget](w.api, "policy", "poddisruptionbudgets")
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// asked looks at what the controller is about to write.
func (w *world) asked(a clienttesting.Action) {
	switch act := a.(type) {
	case clienttesting.UpdateActionImpl:
		if a.GetResource().Resource != "poddisruptionbudgets" || a.GetSubresource() != "status" {
			w.problem("it writes %v", a)
		}
		w.mu.Lock()
		between := w.between
		w.between = nil
		w.mu.Unlock()
		if between != nil {
			between()
		}
	case clienttesting.PatchActionImpl:
		for _, p := range w.pods() {
			if p.Name != act.GetName() {
				continue
			}
			if c := pods.Condition(p, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet || time.Since(c.LastTransitionTime.Time) < 2*time.Minute {
				w.problem("at %v the mark of %s is taken: %+v", time.Now(), p.Name, c)
			}
		}
	default:
		w.problem("it writes %v", a)
	}
}

// oracle is the status that a budget should have, written apart from what it tests, and more simply; ok is false if the pods
// have an owner that is not there.
func (w *world) oracle(b *policyv1.PodDisruptionBudget) (want policyv1.PodDisruptionBudgetStatus, ok bool) {
	all := w.owners()
	find := func(uid types.UID) *source {
		for _, o := range all {
			if o.GetUID() == uid {
				return o
			}
		}
		return nil
	}
	roots, known := map[types.UID]int32{}, true
	want.DisruptedPods = map[string]metav1.Time{}
	n := int32(0)
	for _, p := range w.pods() {
		if p.Labels["app"] != b.Spec.Selector.MatchLabels["app"] {
			continue
		}
		n++
		going := p.DeletionTimestamp != nil
		if at, listed := b.Status.DisruptedPods[p.Name]; listed && !going && time.Since(at.Time) <= 2*time.Minute {
			want.DisruptedPods[p.Name] = at
			going = true
		}
		if pods.IsReady(p) && !going {
			want.CurrentHealthy++
		}
		ref := metav1.GetControllerOf(p)
		if ref == nil {
			continue
		}
		o := find(ref.UID)
		if o != nil {
			if above := metav1.GetControllerOf(o); above != nil {
				o = find(above.UID)
			}
		}
		if o == nil {
			known = false
			continue
		}
		roots[o.GetUID()] = *o.size
	}
	want.ExpectedPods = n
	if m := b.Spec.MinAvailable; m == nil || m.Type == intstr.String {
		want.ExpectedPods, ok = 0, known
		for _, size := range roots {
			want.ExpectedPods += size
		}
	} else {
		ok = true
	}
	amount := func(v *intstr.IntOrString) int32 {
		if percent, is := strings.CutSuffix(v.String(), "%"); is {
			share, _ := strconv.Atoi(percent)
			return int32(math.Ceil(float64(share) * float64(want.ExpectedPods) / 100))
		}
		return v.IntVal
	}
	if b.Spec.MinAvailable != nil {
		want.DesiredHealthy = amount(b.Spec.MinAvailable)
	} else {
		want.DesiredHealthy = max(want.ExpectedPods-amount(b.Spec.MaxUnavailable), 0)
	}
	if want.ExpectedPods > 0 {
		want.DisruptionsAllowed = max(want.CurrentHealthy-want.DesiredHealthy, 0)
	}
	return want, ok
}

// fine fails the test with what was found, and with a status that is not right while the server is well.
func (w *world) fine() {
	synctest.Wait()
	w.mu.Lock()
	well := w.well
	w.mu.Unlock()
	for _, b := range w.budgets() {
		if !well {
			break
		}
		want, ok := w.oracle(b)
		s := b.Status
		c := apimeta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
		switch {
		case c == nil:
			w.problem("%s has no condition: %+v", b.Name, s)
		case !ok && (s.DisruptionsAllowed != 0 || c.Status != metav1.ConditionFalse || c.Reason != policyv1.SyncFailedReason):
			w.problem("%s allows %d, its pods' owners are not known: %+v", b.Name, s.DisruptionsAllowed, c)
		case ok && (s.CurrentHealthy != want.CurrentHealthy || s.DesiredHealthy != want.DesiredHealthy || s.ExpectedPods != want.ExpectedPods ||
			s.DisruptionsAllowed != want.DisruptionsAllowed || !maps.Equal(s.DisruptedPods, want.DisruptedPods)):
			w.problem("%s (%v, %v) says\n%+v, but\n%+v", b.Name, b.Spec.MinAvailable, b.Spec.MaxUnavailable, s, want)
		case ok && (s.ObservedGeneration != b.Generation || (c.Status == metav1.ConditionTrue) != (want.DisruptionsAllowed > 0) || c.Reason == policyv1.SyncFailedReason):
			w.problem("%s at generation %d says %+v", b.Name, b.Generation, s)
		}
	}
	w.mu.Lock()
	allowed := w.allowed
	w.allowed = nil
	w.mu.Unlock()
	for _, e := range allowed {
		for _, b := range w.budgets() {
			stays := func(p *corev1.Pod) bool {
				return p.Name == e.pod && p.DeletionTimestamp == nil && p.Labels["app"] == b.Name
			}
			if b.UID != e.budget || time.Since(e.at.Time) >= 2*time.Minute || !slices.ContainsFunc(w.pods(), stays) {
				continue
			}
			w.allowed = append(w.allowed, e)
			if at, listed := b.Status.DisruptedPods[e.pod]; !listed || !at.Equal(&e.at) {
				w.problem("%s has forgotten that it allowed the eviction of %s at %v: %+v", b.Name, e.pod, e.at, b.Status)
			}
		}
	}
	for _, p := range w.pods() {
		c := pods.Condition(p, corev1.DisruptionTarget)
		if well && c != nil && c.Status == corev1.ConditionTrue && c.Reason != corev1.PodReasonTerminationByKubelet && pods.IsActive(p) && time.Since(c.LastTransitionTime.Time) > staleAfter+time.Second {
			w.problem("%s is marked since %v", p.Name, c.LastTransitionTime)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

// evict does what the API does: it takes from what the budget allows, and then marks and deletes the pod, if it comes to that.
func (w *world) evict(p *corev1.Pod, upTo int) {
	ctx, all := context.Background(), w.client.CoreV1().Pods("default")
	b, err := w.client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, p.Labels["app"], metav1.GetOptions{})
	if fresh, gone := all.Get(ctx, p.Name, metav1.GetOptions{}); gone == nil {
		p = fresh
	}
	if err != nil || p.Labels["app"] != b.Name || b.Status.DisruptionsAllowed <= 0 || b.Status.ObservedGeneration < b.Generation || !pods.IsReady(p) || p.DeletionTimestamp != nil {
		return
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	now := metav1.NewTime(time.Now().Truncate(time.Second)) // as the API stores it
	b.Status.DisruptedPods[p.Name] = now
	if _, err := w.client.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		return
	}
	w.mu.Lock()
	w.allowed = append(slices.DeleteFunc(w.allowed, func(e eviction) bool { return e.budget == b.UID && e.pod == p.Name }), eviction{b.UID, p.Name, now})
	w.mu.Unlock()
	if upTo > 0 {
		pods.SetCondition(p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: now})
		_, _ = all.UpdateStatus(ctx, p, metav1.UpdateOptions{})
	}
	if upTo > 1 {
		_ = all.Delete(ctx, p.Name, metav1.DeleteOptions{})
	}
}

// resize changes the size of an owner.
func (w *world) resize(name string, size int32) {
	ctx := context.Background()
	switch o := w.owner(name); {
	case o == nil:
		w.addOwner(name)
	case o.kind == "Deployment":
		d := o.Object.(*appsv1.Deployment)
		d.Spec.Replicas = &size
		_, _ = w.client.AppsV1().Deployments("default").Update(ctx, d, metav1.UpdateOptions{})
	case o.kind == "StatefulSet":
		s := o.Object.(*appsv1.StatefulSet)
		s.Spec.Replicas = &size
		_, _ = w.client.AppsV1().StatefulSets("default").Update(ctx, s, metav1.UpdateOptions{})
	case o.kind == "ReplicationController":
		rc := o.Object.(*corev1.ReplicationController)
		rc.Spec.Replicas = &size
		_, _ = w.client.CoreV1().ReplicationControllers("default").Update(ctx, rc, metav1.UpdateOptions{})
	default:
		rs := o.Object.(*appsv1.ReplicaSet)
		rs.Spec.Replicas = &size
		_, _ = w.client.AppsV1().ReplicaSets("default").Update(ctx, rs, metav1.UpdateOptions{})
	}
}

// move puts a ReplicaSet under the Deployment, or takes it from there.
func (w *world) move(name string) {
	o, d := w.owner(name), w.owner("d")
	if o == nil || d == nil {
		return
	}
	rs := o.Object.(*appsv1.ReplicaSet)
	if len(rs.OwnerReferences) > 0 {
		rs.OwnerReferences = nil
	} else {
		rs.OwnerReferences = []metav1.OwnerReference{w.ref(d)}
	}
	_, _ = w.client.AppsV1().ReplicaSets("default").Update(context.Background(), rs, metav1.UpdateOptions{})
}

func (w *world) steps() map[string]func(*rapid.T) {
	ctx, all, none := context.Background(), w.client.CoreV1().Pods("default"), int64(0)
	one := func(t *rapid.T, do func(*corev1.Pod)) {
		if has := w.pods(); len(has) > 0 {
			do(has[rapid.IntRange(0, len(has)-1).Draw(t, "pod")])
		}
	}
	unwell := func() { w.mu.Lock(); defer w.mu.Unlock(); w.well = false }
	evict := func(t *rapid.T) {
		one(t, func(p *corev1.Pod) { w.evict(p, rapid.SampledFrom([]int{0, 1, 2, 2}).Draw(t, "up to")) })
	}
	return map[string]func(*rapid.T){
		"evict": evict, "evict another": evict,
		"evict between": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) { w.mu.Lock(); defer w.mu.Unlock(); w.between = func() { w.evict(p, 0) } })
		},
		"pod": func(*rapid.T) { w.addPod() },
		"ready": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) {
				_, _ = all.UpdateStatus(ctx, cachetest.Running(p, !pods.IsReady(p), time.Now()), metav1.UpdateOptions{})
			})
		},
		"relabel": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) {
				p.Labels["app"] = rapid.SampledFrom([]string{"web", "db", "none"}).Draw(t, "app")
				_, _ = all.Update(ctx, p, metav1.UpdateOptions{})
			})
		},
		"mark": func(t *rapid.T) {
			one(t, func(p *corev1.Pod) {
				pods.SetCondition(p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
					Reason: rapid.SampledFrom([]string{corev1.PodReasonTerminationByKubelet, "PreemptionByScheduler"}).Draw(t, "reason")})
				_, _ = all.UpdateStatus(ctx, p, metav1.UpdateOptions{})
			})
		},
		"delete": func(t *rapid.T) { one(t, func(p *corev1.Pod) { _ = all.Delete(ctx, p.Name, metav1.DeleteOptions{}) }) },
		"end": func(*rapid.T) {
			for _, p := range w.pods() {
				if p.DeletionTimestamp != nil {
					_ = all.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
				}
			}
		},
		"resize": func(t *rapid.T) {
			w.resize(rapid.SampledFrom(names).Draw(t, "owner"), rapid.Int32Range(0, 6).Draw(t, "size"))
		},
		"move": func(t *rapid.T) { w.move(rapid.SampledFrom([]string{"old", "new", "alone"}).Draw(t, "set")) },
		"owner goes": func(t *rapid.T) {
			o := metav1.DeleteOptions{}
			switch name := rapid.SampledFrom(names).Draw(t, "owner"); name {
			case "d":
				_ = w.client.AppsV1().Deployments("default").Delete(ctx, name, o)
			case "db":
				_ = w.client.AppsV1().StatefulSets("default").Delete(ctx, name, o)
			case "rc":
				_ = w.client.CoreV1().ReplicationControllers("default").Delete(ctx, name, o)
			default:
				_ = w.client.AppsV1().ReplicaSets("default").Delete(ctx, name, o)
			}
		},
		"budget": func(t *rapid.T) {
			name := rapid.SampledFrom([]string{"web", "db"}).Draw(t, "name")
			b, err := w.client.PolicyV1().PodDisruptionBudgets("default").Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				w.addBudget(name)
				return
			}
			b.Spec = w.spec(name)
			_, _ = w.client.PolicyV1().PodDisruptionBudgets("default").Update(ctx, b, metav1.UpdateOptions{})
		},
		"budget goes": func(t *rapid.T) {
			_ = w.client.PolicyV1().PodDisruptionBudgets("default").Delete(ctx, rapid.SampledFrom([]string{"web", "db"}).Draw(t, "name"), metav1.DeleteOptions{})
		},
		"crash":   func(t *rapid.T) { unwell(); w.server.CrashAfter(rapid.Int64Range(0, 3).Draw(t, "writes")) },
		"stumble": func(t *rapid.T) { unwell(); w.server.Stumble(rapid.Int64Range(1, 4).Draw(t, "every")) },
		"restart": func(*rapid.T) { w.server.Restart() }, "start anew": func(*rapid.T) { w.server.Restart() },
		"lose place": func(*rapid.T) { w.api.Source.Quietly(func() {}) },
		"wait": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{10 * time.Second, time.Minute, 121 * time.Second, 5 * time.Minute}).Draw(t, "waits"))
		},
	}
}

// Random pods, evictions, sizes, budgets, failures and crashes between any two writes: whenever the controller is at rest, a
// status says exactly what is so, what the API has taken from it is never given back before its time, and all becomes quiet.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cachetest.InBubble(t, rt, func(t *rapid.T) {
			w := newWorld(t)
			defer func() { w.server.Stop() }()
			w.fine()
			steps := w.steps()
			kinds := slices.Sorted(maps.Keys(steps))
			for range rapid.IntRange(5, 30).Draw(t, "steps") {
				steps[rapid.SampledFrom(kinds).Draw(t, "step")](t)
				w.settle()
				time.Sleep(rapid.SampledFrom([]time.Duration{0, 5 * time.Millisecond, time.Second, 15 * time.Second}).Draw(t, "sleeps"))
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

// settle gives the controller time for a second try, after a write that met a change of the API's.
func (w *world) settle() {
	synctest.Wait()
	time.Sleep(50 * time.Millisecond)
	w.fine()
}
