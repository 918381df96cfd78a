package disruption

import (
	"fmt"
	"testing"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func budget(least, most string, change ...func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "default", Generation: 2}}
	if least != "" {
		v := intstr.Parse(least)
		b.Spec.MinAvailable = &v
	}
	if most != "" {
		v := intstr.Parse(most)
		b.Spec.MaxUnavailable = &v
	}
	for _, f := range change {
		f(b)
	}
	return b
}

// some makes pods that an owner controls; of nobody if it is empty.
func some(n int, owner string, change ...func(*corev1.Pod)) []*corev1.Pod {
	var out []*corev1.Pod
	for i := range n {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(owner, i), Namespace: "default"}}
		if owner != "" {
			yes := true
			pod.OwnerReferences = []metav1.OwnerReference{{Name: owner, UID: types.UID(owner), Controller: &yes}}
		}
		for _, f := range change {
			f(pod)
		}
		out = append(out, pod)
	}
	return out
}

func ready(pod *corev1.Pod) {
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
}

func going(pod *corev1.Pod) { pod.DeletionTimestamp = &metav1.Time{Time: start} }

func join(all ...[]*corev1.Pod) (out []*corev1.Pod) {
	for _, some := range all {
		out = append(out, some...)
	}
	return out
}

// sizes: two ReplicaSets old and new of one Deployment of five, one more of ten.
func sizes(ref *metav1.OwnerReference) (int32, types.UID, error) {
	switch ref.Name {
	case "old", "new":
		return 5, "web", nil
	case "other":
		return 10, "other", nil
	}
	return 0, "", nil
}

func TestPlan(t *testing.T) {
	disrupted := func(names map[string]time.Duration) func(*policyv1.PodDisruptionBudget) {
		return func(b *policyv1.PodDisruptionBudget) {
			b.Status.DisruptedPods = map[string]metav1.Time{}
			for name, ago := range names {
				b.Status.DisruptedPods[name] = metav1.NewTime(start.Add(-ago))
			}
		}
	}
	for _, test := range []struct {
		name   string
		budget *policyv1.PodDisruptionBudget
		pods   []*corev1.Pod
		want   string
	}{
		{"no pods", budget("1", ""), nil, "0 of 1 healthy, 0 expected, 0 allowed, False InsufficientPods"},
		{"a number", budget("2", ""), some(3, "", ready), "3 of 2 healthy, 3 expected, 1 allowed, True SufficientPods"},
		{"not ready ones do not count", budget("2", ""), join(some(2, "old", ready), some(2, "")), "2 of 2 healthy, 4 expected, 0 allowed, False InsufficientPods"},
		{"nor do those that go", budget("1", ""), join(some(1, "old", ready), some(1, "new", ready, going)), "1 of 1 healthy, 2 expected, 0 allowed, False InsufficientPods"},
		{"a share of a Deployment", budget("50%", ""), join(some(2, "old", ready), some(3, "new", ready)), "5 of 3 healthy, 5 expected, 2 allowed, True SufficientPods"},
		{"and of another", budget("50%", ""), join(some(5, "old", ready), some(5, "other", ready)), "10 of 8 healthy, 15 expected, 2 allowed, True SufficientPods"},
		{"at most one away", budget("", "1"), some(5, "old", ready), "5 of 4 healthy, 5 expected, 1 allowed, True SufficientPods"},
		{"at most a share away, rounded up", budget("", "30%"), some(5, "old", ready), "5 of 3 healthy, 5 expected, 2 allowed, True SufficientPods"},
		{"all may be away", budget("", "100%"), some(1, "old"), "0 of 0 healthy, 5 expected, 0 allowed, False InsufficientPods"},
		{"pods of nobody", budget("", "1"), join(some(5, "old", ready), some(1, "")), "5 of 4 healthy, 5 expected, 1 allowed, True SufficientPods, 1 unmanaged"},
		{"pods of nobody known", budget("", "1"), some(1, "strange", ready), `error found no controllers for pod "strange0"`},
		{"an eviction under way", budget("1", "", disrupted(map[string]time.Duration{"old0": time.Minute, "gone": time.Second})), some(3, "old", ready),
			"2 of 1 healthy, 3 expected, 1 allowed, True SufficientPods, disrupted old0, wake 1m0.001s"},
		{"an eviction that did not happen", budget("1", "", disrupted(map[string]time.Duration{"old0": 3 * time.Minute})), some(3, "old", ready),
			"3 of 1 healthy, 3 expected, 2 allowed, True SufficientPods, old0 stayed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			q, err := decide(observed{budget: test.budget, pods: test.pods, now: start, sizeOf: sizes})
			if got := summary(q, err); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if err != nil {
				return
			}
			test.budget.Status = q.status
			if again, err := decide(observed{budget: test.budget, pods: test.pods, now: start.Add(time.Second), sizeOf: sizes}); err != nil || fmt.Sprint(again.status) != fmt.Sprint(q.status) {
				t.Errorf("a second plan wants\n%+v, the first\n%+v", again.status, q.status)
			}
		})
	}
}

func summary(q plan, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	s := q.status
	c := apimeta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
	out := fmt.Sprintf("%d of %d healthy, %d expected, %d allowed, %s %s", s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptionsAllowed, c.Status, c.Reason)
	for name := range s.DisruptedPods {
		out += ", disrupted " + name
	}
	for _, pod := range q.stayed {
		out += ", " + pod.Name + " stayed"
	}
	if len(q.unmanaged) > 0 {
		out += fmt.Sprintf(", %d unmanaged", len(q.unmanaged))
	}
	if q.wake > 0 {
		out += ", wake " + q.wake.String()
	}
	return out
}

func TestRefuse(t *testing.T) {
	b := budget("1", "")
	b.Status.DisruptionsAllowed, b.Status.CurrentHealthy = 3, 4
	s := refuse(b, fmt.Errorf("no idea"))
	c := apimeta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
	if s.DisruptionsAllowed != 0 || s.CurrentHealthy != 4 || c.Reason != "SyncFailed" || c.Message != "no idea" || c.Status != metav1.ConditionFalse {
		t.Errorf("got %+v", s)
	}
}

func TestStale(t *testing.T) {
	mark := func(reason string, ago time.Duration) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(start.Add(-ago))}}
		}
	}
	for _, test := range []struct {
		name  string
		marks []func(*corev1.Pod)
		left  time.Duration
		ok    bool
	}{
		{"no mark", nil, 0, false},
		{"a young mark", []func(*corev1.Pod){mark("EvictionByEvictionAPI", time.Minute)}, time.Minute, true},
		{"an old mark", []func(*corev1.Pod){mark("EvictionByEvictionAPI", time.Hour)}, 0, true},
		{"it goes", []func(*corev1.Pod){mark("EvictionByEvictionAPI", time.Hour), going}, 0, false},
		{"the node does it", []func(*corev1.Pod){mark(corev1.PodReasonTerminationByKubelet, time.Hour)}, 0, false},
		{"it has ended", []func(*corev1.Pod){mark("EvictionByEvictionAPI", time.Hour), func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }}, 0, false},
	} {
		left, ok := stale(some(1, "", test.marks...)[0], start)
		if left != test.left || ok != test.ok {
			t.Errorf("%s: %v %v", test.name, left, ok)
		}
	}
}
