package statefulset

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

func newSet(replicas int32, version string) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "set", Generation: 1},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: cachetest.Template("web", version), RevisionHistoryLimit: ptr(int32(2)), PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "www"}}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type:          appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr(int32(0))},
			},
		},
	}
}

type fataler interface {
	Fatalf(string, ...any)
	Helper()
}

// world is a StatefulSet with all that belongs to it, and the nodes under it:
// pods with an odd ordinal are on a node that can be cut off.
type world struct {
	t       fataler
	set     *appsv1.StatefulSet
	pods    map[string]*corev1.Pod
	claims  map[string]*corev1.PersistentVolumeClaim
	history []*appsv1.ControllerRevision
	now     time.Time
	made    int
	cut     bool
}

func newWorld(t fataler, set *appsv1.StatefulSet) *world {
	return &world{t: t, set: set, pods: map[string]*corev1.Pod{}, claims: map[string]*corev1.PersistentVolumeClaim{}, now: start}
}

// observe does in memory what the history does with the API.
func (w *world) observe() observed {
	w.now = w.now.Add(time.Second)
	wanted, err := revisions.New(w.set, kind, &w.set.Spec.Template)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	revisions.Sort(w.history)
	choice := revisions.Choose(w.history, wanted)
	current := choice.Current
	if current == nil {
		current = revisions.Named(wanted, w.set.Name, revisions.DataHash(wanted, 0))
		w.history = append(w.history, current)
	}
	current.Revision = choice.Number
	revisions.Sort(w.history)
	o := observed{
		set: w.set, history: w.history, now: w.now, update: revision{current.Name, &w.set.Spec.Template},
		claim: func(name string) *corev1.PersistentVolumeClaim { return w.claims[name] },
	}
	for _, pod := range w.pods {
		o.pods = append(o.pods, pod)
	}
	if o.current, err = currentOf(w.set, w.history, o.update); err != nil {
		w.t.Fatalf("%v", err)
	}
	return o
}

// apply does the first writes of a plan and then crashes; it says how many
// there were.
func (w *world) apply(p plan, most int) (writes int) {
	may := func() bool { writes++; return writes <= most }
	for _, s := range p.steps {
		for _, claim := range s.claims {
			if may() {
				w.claims[claim.Name] = claim
			}
		}
		if s.blocked != nil {
			break
		}
		if s.create != nil && may() {
			w.make(s.create)
		}
		for _, claim := range s.owners {
			if may() {
				w.claims[claim.Name] = claim
			}
		}
		if s.update != nil && may() {
			w.pods[s.update.Name] = s.update
		}
		if s.delete != nil && may() {
			w.ask(s.delete)
		}
	}
	if !equality.Semantic.DeepEqual(w.set.Status, p.status) && may() {
		w.set.Status = p.status
	}
	for _, gone := range p.surplus {
		if may() {
			w.history = slices.DeleteFunc(w.history, func(r *appsv1.ControllerRevision) bool { return r.Name == gone.Name })
		}
	}
	return writes
}

func (w *world) make(pod *corev1.Pod) {
	if w.pods[pod.Name] != nil {
		w.t.Fatalf("a second pod %s", pod.Name)
	}
	for _, v := range pod.Spec.Volumes {
		if c := v.PersistentVolumeClaim; c != nil && w.claims[c.ClaimName] == nil {
			w.t.Fatalf("pod %s is made before its claim %s", pod.Name, c.ClaimName)
		}
	}
	w.made++
	pod.UID = types.UID(fmt.Sprint("pod", w.made))
	pod.Status.Phase = corev1.PodPending
	w.pods[pod.Name] = pod
}

// ask sets a pod's time of deletion.
func (w *world) ask(pod *corev1.Pod) {
	asked := w.pods[pod.Name].DeepCopy()
	asked.DeletionTimestamp = ptr(metav1.NewTime(w.now))
	w.pods[pod.Name] = asked
}

// advance is kubelet and garbage collector for one pod.
func (w *world) advance(name string) bool {
	pod := w.pods[name]
	if w.cut && ordinalOf(pod)%2 == 1 {
		return false
	}
	if pod.DeletionTimestamp != nil {
		delete(w.pods, name)
		for claim, c := range w.claims {
			if slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == pod.UID }) {
				delete(w.claims, claim)
			}
		}
		return true
	}
	if pods.IsFinished(pod) || pods.IsReady(pod) {
		return false
	}
	w.setReady(name, true)
	return true
}

func (w *world) setReady(name string, ready bool) {
	w.pods[name] = cachetest.Running(w.pods[name], ready, w.now)
}

func (w *world) names() []string {
	var out []string
	for name := range w.pods {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (w *world) available(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && pods.IsAvailable(pod, w.set.Spec.MinReadySeconds, w.now)
}

// check holds a plan against the promises.
func (w *world) check(p plan) {
	first, replicas := firstOrdinal(w.set), int(*w.set.Spec.Replicas)
	ordered := w.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	partition, most := bounds(w.set)
	lost, away := 0, 0
	for i := range replicas {
		if !w.available(w.pods[podName(w.set, first+i)]) {
			away++
		}
	}
	for _, s := range p.steps {
		if s.create != nil {
			n := ordinalOf(s.create)
			if !wanted(w.set, n) {
				w.t.Fatalf("%s has no place", s.create.Name)
			}
			for i := first; ordered && i < n; i++ {
				if !w.available(w.pods[podName(w.set, i)]) {
					w.t.Fatalf("%s is made before %s is available", s.create.Name, podName(w.set, i))
				}
			}
		}
		if s.delete == nil || pods.IsFinished(s.delete) {
			continue
		}
		n := ordinalOf(s.delete)
		if wanted(w.set, n) {
			if n-first < partition || revisionOf(s.delete) == p.status.UpdateRevision {
				w.t.Fatalf("%s is deleted, revision %s, partition %d", s.delete.Name, revisionOf(s.delete), partition)
			}
			if w.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
				w.t.Fatalf("%s is deleted by itself", s.delete.Name)
			}
			if w.available(s.delete) {
				lost++
			}
			continue
		}
		if !ordered {
			continue
		}
		if away > 0 && !w.isFirstBroken(s.delete) {
			w.t.Fatalf("%s is taken away while %d are not available", s.delete.Name, away)
		}
		for _, pod := range w.pods {
			if !wanted(w.set, ordinalOf(pod)) && ordinalOf(pod) > n {
				w.t.Fatalf("%s is taken away before %s", s.delete.Name, pod.Name)
			}
		}
	}
	if lost > 0 && lost+away > most {
		w.t.Fatalf("%d available pods are taken away, %d are away already, %d may be", lost, away, most)
	}
	if ordered && len(p.steps) > 1 && slices.ContainsFunc(p.steps, func(s step) bool { return s.create != nil }) && slices.ContainsFunc(p.steps, func(s step) bool { return s.delete != nil }) {
		w.t.Fatalf("an ordered set makes and deletes at once")
	}
}

func (w *world) isFirstBroken(pod *corev1.Pod) bool {
	for _, other := range w.pods {
		if ordinalOf(other) < ordinalOf(pod) && !w.available(other) {
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
	w.cut = false
	for range 1000 {
		waits := decide(w.observe()).wake > 0
		writes := w.step(everything)
		moved := false
		for _, name := range w.names() {
			moved = w.advance(name) || moved
		}
		if writes == 0 && !moved && !waits {
			return
		}
	}
	w.t.Fatalf("does not converge: %v", w.names())
}

// settled checks the end of all things.
func (w *world) settled() {
	first, replicas := firstOrdinal(w.set), int(*w.set.Spec.Replicas)
	partition, _ := bounds(w.set)
	s := w.set.Status
	if len(w.pods) != replicas || int(s.Replicas) != replicas || int(s.AvailableReplicas) != replicas || int(s.ReadyReplicas) != replicas || s.ObservedGeneration != w.set.Generation {
		w.t.Fatalf("%v of %d, status %+v", w.names(), replicas, s)
	}
	for i := range replicas {
		pod := w.pods[podName(w.set, first+i)]
		if pod == nil || pod.Labels[appsv1.StatefulSetPodNameLabel] != pod.Name || pod.Labels[appsv1.PodIndexLabel] != fmt.Sprint(first+i) || pod.Spec.Hostname != pod.Name || pod.Spec.Subdomain != "web" {
			w.t.Fatalf("place %d has %v", first+i, pod)
		}
		if w.claims["www-"+pod.Name] == nil {
			w.t.Fatalf("%s has no claim", pod.Name)
		}
		if w.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && i >= partition && revisionOf(pod) != s.UpdateRevision {
			w.t.Fatalf("%s is of %s, not %s", pod.Name, revisionOf(pod), s.UpdateRevision)
		}
	}
	live := map[string]bool{s.CurrentRevision: true, s.UpdateRevision: true}
	for _, pod := range w.pods {
		live[revisionOf(pod)] = true
	}
	if len(w.history) > len(live)+2 {
		w.t.Fatalf("%d revisions, %d of them in use", len(w.history), len(live))
	}
}

func TestSetsKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := newSet(rapid.Int32Range(0, 5).Draw(t, "replicas"), "1")
		set.Spec.MinReadySeconds = rapid.SampledFrom([]int32{0, 0, 3}).Draw(t, "minReady")
		set.Spec.PodManagementPolicy = rapid.SampledFrom([]appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}).Draw(t, "policy")
		if start := rapid.Int32Range(0, 2).Draw(t, "start"); start > 0 {
			set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: start}
		}
		if rapid.Bool().Draw(t, "whenScaled") {
			set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: retain, WhenScaled: remove}
		}
		w := newWorld(t, set)
		w.converge()
		some := func(t *rapid.T, do func(name string)) {
			if names := w.names(); len(names) > 0 {
				do(rapid.SampledFrom(names).Draw(t, "pod"))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"scale": func(t *rapid.T) {
				w.set.Spec.Replicas = ptr(rapid.Int32Range(0, 5).Draw(t, "replicas"))
				w.set.Generation++
			},
			"template": func(t *rapid.T) {
				w.set.Spec.Template = cachetest.Template("web", fmt.Sprint(rapid.IntRange(1, 5).Draw(t, "version")))
				w.set.Generation++
			},
			"strategy": func(t *rapid.T) {
				w.set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{
					Type: appsv1.RollingUpdateStatefulSetStrategyType,
					RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{
						Partition:      ptr(rapid.Int32Range(0, 4).Draw(t, "partition")),
						MaxUnavailable: ptr(intstr.Parse(rapid.SampledFrom([]string{"1", "2", "50%", "1%"}).Draw(t, "unavailable"))),
					},
				}
				if rapid.IntRange(0, 3).Draw(t, "by hand") == 0 {
					w.set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
				}
				w.set.Generation++
			},
			"step":    func(t *rapid.T) { w.step(everything) },
			"crash":   func(t *rapid.T) { w.step(rapid.IntRange(0, 4).Draw(t, "writes")) },
			"advance": func(t *rapid.T) { some(t, func(name string) { w.advance(name) }) },
			"delete":  func(t *rapid.T) { some(t, func(name string) { w.ask(w.pods[name]) }) },
			"unready": func(t *rapid.T) { some(t, func(name string) { w.setReady(name, false) }) },
			"fail": func(t *rapid.T) {
				some(t, func(name string) {
					failed := w.pods[name].DeepCopy()
					failed.Status = corev1.PodStatus{Phase: rapid.SampledFrom([]corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")}
					w.pods[name] = failed
				})
			},
			"cut": func(*rapid.T) { w.cut = !w.cut },
			"unlabel": func(t *rapid.T) {
				some(t, func(name string) {
					bare := w.pods[name].DeepCopy()
					delete(bare.Labels, appsv1.StatefulSetPodNameLabel)
					w.pods[name] = bare
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
