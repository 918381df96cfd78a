package statefulset

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
)

// summary prints what a plan does about pods and claims.
func summary(p plan) string {
	var out []string
	for _, s := range p.steps {
		for _, c := range s.claims {
			out = append(out, "claim "+c.Name)
		}
		if s.blocked != nil {
			out = append(out, s.blocked.Error())
			continue
		}
		if s.create != nil {
			out = append(out, "create "+s.create.Name+" "+s.create.Spec.Containers[0].Image)
		}
		for _, c := range s.owners {
			out = append(out, fmt.Sprintf("own %s by %d", c.Name, len(c.OwnerReferences)))
		}
		if s.update != nil {
			out = append(out, "update "+s.update.Name)
		}
		if s.delete != nil {
			out = append(out, "delete "+s.delete.Name)
		}
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	running := func(replicas int32, change func(*world)) func(*testing.T) *world {
		return func(t *testing.T) *world {
			w := newWorld(t, newSet(replicas, "1"))
			w.converge()
			if change != nil {
				change(w)
			}
			return w
		}
	}
	update := func(w *world) { w.set.Spec.Template = cachetest.Template("web", "2") }
	parallel := func(w *world) { w.set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
	rolling := func(w *world, partition int32, most string) {
		w.set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition, MaxUnavailable: ptr(intstr.Parse(most))}
	}
	for _, c := range []struct {
		name  string
		world func(*testing.T) *world
		want  string
	}{
		{"the first comes first", func(t *testing.T) *world { return newWorld(t, newSet(3, "1")) }, "claim www-web-0, create web-0 web:1"},
		{"all at once", func(t *testing.T) *world { w := newWorld(t, newSet(2, "1")); parallel(w); return w },
			"claim www-web-0, create web-0 web:1, claim www-web-1, create web-1 web:1"},
		{"from another ordinal", func(t *testing.T) *world {
			w := newWorld(t, newSet(1, "1"))
			w.set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
			return w
		}, "claim www-web-5, create web-5 web:1"},
		{"nothing to do", running(3, nil), ""},
		{"a claim outlives its pod", running(2, func(w *world) { delete(w.pods, "web-1") }), "create web-1 web:1"},
		{"a pod that is going is waited for", running(2, func(w *world) { w.ask(w.pods["web-1"]) }), ""},
		{"also if all come at once", running(2, func(w *world) { parallel(w); w.ask(w.pods["web-1"]) }), ""},
		{"a failed pod is replaced", running(2, func(w *world) { w.pods["web-0"].Status.Phase = corev1.PodFailed }), "delete web-0"},
		{"a broken pod stops the others", running(3, func(w *world) { w.setReady("web-0", false); delete(w.pods, "web-2") }), ""},
		{"the last goes first", running(3, func(w *world) { w.set.Spec.Replicas = ptr(int32(1)) }), "delete web-2"},
		{"not while others are broken", running(3, func(w *world) { w.set.Spec.Replicas = ptr(int32(1)); w.setReady("web-0", false) }), ""},
		{"all go at once", running(3, func(w *world) { parallel(w); w.set.Spec.Replicas = ptr(int32(1)) }), "delete web-2, delete web-1"},
		{"claims go with their pods", running(2, func(w *world) {
			w.set.Spec.Replicas = ptr(int32(1))
			w.set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: retain, WhenScaled: remove}
		}), "own www-web-1 by 1, delete web-1"},
		{"claims go with the set", running(1, func(w *world) {
			w.set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: remove, WhenScaled: retain}
		}), "own www-web-0 by 1"},
		{"also of a pod that does not start", running(1, func(w *world) {
			w.setReady("web-0", false)
			w.pods["web-0"].Status.Phase = corev1.PodPending
			w.set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: remove, WhenScaled: retain}
		}), "own www-web-0 by 1"},
		{"and once alone", running(1, func(w *world) {
			parallel(w)
			w.pods["web-0"].Status.Phase = corev1.PodPending
			delete(w.pods["web-0"].Labels, appsv1.StatefulSetPodNameLabel)
			w.set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: remove, WhenScaled: retain}
		}), "own www-web-0 by 1, update web-0"},
		{"an update begins at the end", running(3, update), "delete web-2"},
		{"two may be away", running(4, func(w *world) { update(w); rolling(w, 0, "50%") }), "delete web-3, delete web-2"},
		{"a partition stays", running(3, func(w *world) { update(w); rolling(w, 2, "3") }), "delete web-2"},
		{"below the partition comes what was", running(3, func(w *world) { update(w); rolling(w, 2, "1"); delete(w.pods, "web-0") }), "create web-0 web:1"},
		{"by hand", running(2, func(w *world) {
			update(w)
			w.set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
			delete(w.pods, "web-0")
		}), "create web-0 web:2"},
		{"what is broken is updated first", running(3, func(w *world) { parallel(w); update(w); w.setReady("web-0", false) }), "delete web-0"},
		{"a set that goes does nothing", running(2, func(w *world) {
			w.set.DeletionTimestamp = ptr(metav1.NewTime(start))
			delete(w.pods, "web-0")
		}), ""},
		{"a claim that goes is waited for", running(1, func(w *world) {
			delete(w.pods, "web-0")
			w.claims["www-web-0"].DeletionTimestamp = ptr(metav1.NewTime(start))
		}), "pvc www-web-0 is being deleted"},
		{"a lost label is put back, whatever becomes of the claim", running(1, func(w *world) {
			delete(w.pods["web-0"].Labels, appsv1.StatefulSetPodNameLabel)
			w.claims["www-web-0"].DeletionTimestamp = ptr(metav1.NewTime(start))
		}), "update web-0"},
		{"a lost label is put back", running(1, func(w *world) { delete(w.pods["web-0"].Labels, appsv1.StatefulSetPodNameLabel) }), "update web-0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := summary(decide(c.world(t).observe())); got != c.want {
				t.Errorf("does %q, want %q", got, c.want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t, newSet(3, "1"))
	w.converge()
	one := w.set.Status.UpdateRevision
	w.set.Spec.Template = cachetest.Template("web", "2")
	w.set.Generation = 2
	w.step(everything)
	two := w.set.Status.UpdateRevision
	want := appsv1.StatefulSetStatus{
		ObservedGeneration: 2, Replicas: 3, ReadyReplicas: 3, AvailableReplicas: 3, CurrentReplicas: 2, UpdatedReplicas: 0,
		CurrentRevision: one, UpdateRevision: two, CollisionCount: ptr(int32(0)),
	}
	if got := w.set.Status; fmt.Sprintf("%+v", withoutPointers(got)) != fmt.Sprintf("%+v", withoutPointers(want)) {
		t.Errorf("in between %+v, want %+v", got, want)
	}
	w.converge()
	want.CurrentReplicas, want.UpdatedReplicas, want.CurrentRevision = 3, 3, two
	if got := w.set.Status; fmt.Sprintf("%+v", withoutPointers(got)) != fmt.Sprintf("%+v", withoutPointers(want)) {
		t.Errorf("in the end %+v, want %+v", got, want)
	}
}

func withoutPointers(s appsv1.StatefulSetStatus) appsv1.StatefulSetStatus {
	s.CollisionCount = nil
	return s
}

func TestOwnersOfClaims(t *testing.T) {
	set := newSet(1, "1")
	pod := newPod(set, revision{"r", &set.Spec.Template}, 0)
	extra := newPod(set, revision{"r", &set.Spec.Template}, 3)
	pod.UID, extra.UID = "p0", "p3"
	bySet, byPod := *metav1.NewControllerRef(set, kind), *metav1.NewControllerRef(extra, podKind)
	stranger := metav1.OwnerReference{APIVersion: "v1", Kind: "Other", Name: "o", UID: "o", Controller: ptr(true)}
	stale := bySet
	stale.UID = "before"
	for _, c := range []struct {
		name             string
		deleted, scaled  appsv1.PersistentVolumeClaimRetentionPolicyType
		pod              *corev1.Pod
		have, want       []metav1.OwnerReference
		changed, foreign bool
	}{
		{"kept", retain, retain, pod, nil, nil, false, false},
		{"kept from now on", retain, retain, pod, []metav1.OwnerReference{stranger, bySet}, []metav1.OwnerReference{stranger}, true, false},
		{"goes with the set", remove, retain, extra, nil, []metav1.OwnerReference{bySet}, true, false},
		{"stays the set's", remove, retain, pod, []metav1.OwnerReference{bySet}, []metav1.OwnerReference{bySet}, false, false},
		{"goes with the pod", remove, remove, extra, []metav1.OwnerReference{bySet}, []metav1.OwnerReference{byPod}, true, false},
		{"the pod has a place", retain, remove, pod, nil, nil, false, false},
		{"another's", remove, retain, pod, []metav1.OwnerReference{stranger}, []metav1.OwnerReference{stranger}, false, true},
		{"another's and ours", remove, retain, pod, []metav1.OwnerReference{stranger, bySet}, []metav1.OwnerReference{stranger}, true, true},
		{"an earlier set's", remove, retain, pod, []metav1.OwnerReference{stale}, []metav1.OwnerReference{stale}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: c.deleted, WhenScaled: c.scaled}
			got := ownersOf(set, c.pod, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: c.have}})
			if fmt.Sprint(uids(got.refs)) != fmt.Sprint(uids(c.want)) || got.changed != c.changed || got.foreign != c.foreign {
				t.Errorf("got %v changed %v foreign %v", uids(got.refs), got.changed, got.foreign)
			}
		})
	}
}

func uids(refs []metav1.OwnerReference) (out []string) {
	for _, r := range refs {
		out = append(out, string(r.UID))
	}
	return out
}

func TestIdentity(t *testing.T) {
	for name, want := range map[string]string{"web-0": "web 0", "a-b-12": "a-b 12", "web": " -1", "web-": " -1", "web-x1": " -1", "web-99999999999": "web -1", "web-+1": " -1"} {
		parent, n := identity(name)
		if got := fmt.Sprint(parent, " ", n); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
