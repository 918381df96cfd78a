package deployment

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func p[T any](v T) *T { return &v }

// rolling makes a Deployment that may surge and lack so many pods.
func rolling(replicas int32, surge, unavailable string, version string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: cachetest.Template("web", version), RevisionHistoryLimit: p(int32(10)), ProgressDeadlineSeconds: p(int32(600)),
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
			},
		},
	}
}

// setOf makes a Deployment's ReplicaSet as it would be after it was scaled.
func setOf(d *appsv1.Deployment, version string, revision int, replicas, available int32) *appsv1.ReplicaSet {
	of := d.DeepCopy()
	of.Spec.Template = cachetest.Template("web", version)
	rs := newSet(of, replicas)
	rs.UID = "rs-" + typesUID(version)
	rs.CreationTimestamp = metav1.NewTime(start.Add(time.Duration(revision) * time.Minute))
	surge, _ := bounds(d)
	setAnnotation(rs, revisionAnnotation, fmt.Sprint(revision))
	rememberSize(rs, *d.Spec.Replicas, surge)
	rs.Status = appsv1.ReplicaSetStatus{Replicas: replicas, ReadyReplicas: available, AvailableReplicas: available, TerminatingReplicas: p(int32(0)), ObservedGeneration: 1}
	return rs
}

func see(d *appsv1.Deployment, sets ...*appsv1.ReplicaSet) observed {
	return observed{deployment: d, sets: sets, now: start.Add(time.Hour), oldPods: func(*appsv1.ReplicaSet) bool { return false }}
}

// summary prints the writes of a plan.
func summary(p plan) string {
	out := ""
	if p.create != nil {
		out += fmt.Sprintf("create %d;", *p.create.Spec.Replicas)
	}
	for _, u := range p.update {
		out += fmt.Sprintf("%s %d>%d;", u.set.Spec.Template.Spec.Containers[0].Image, u.from, *u.set.Spec.Replicas)
	}
	for _, rs := range p.delete {
		out += fmt.Sprintf("delete %s;", rs.Spec.Template.Spec.Containers[0].Image)
	}
	return out
}

func TestPlan(t *testing.T) {
	paused := rolling(5, "1", "0", "2")
	paused.Spec.Paused = true
	recreate := rolling(3, "0", "1", "2")
	recreate.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	oldPods := see(recreate, setOf(recreate, "1", 1, 0, 0))
	oldPods.oldPods = func(*appsv1.ReplicaSet) bool { return true }
	keepTwo := rolling(1, "1", "0", "5")
	keepTwo.Spec.RevisionHistoryLimit = p(int32(2))
	keepTwo.Status = appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1, ObservedGeneration: 1}

	d10 := rolling(10, "3", "2", "2")
	larger := rolling(20, "3", "2", "2") // 10 -> 20 in the middle of a rollout
	half := func(version string, revision int, replicas, available int32) *appsv1.ReplicaSet {
		return setOf(d10, version, revision, replicas, available)
	}
	for _, test := range []struct {
		name string
		see  observed
		want string
	}{
		{"the first ReplicaSet is made whole", see(rolling(3, "1", "0", "1")), "create 3;"},
		{"nothing to do", see(rolling(3, "1", "0", "1"), setOf(rolling(3, "1", "0", "1"), "1", 1, 3, 3)), ""},
		{"a new template starts with the surge", see(rolling(3, "1", "0", "2"), setOf(rolling(3, "1", "0", "2"), "1", 1, 3, 3)), "create 1;"},
		{"with no surge it starts at zero", see(rolling(3, "0", "1", "2"), setOf(rolling(3, "0", "1", "2"), "1", 1, 3, 3)), "create 0;"},
		{"then the old one gives way", see(rolling(3, "0", "1", "2"), setOf(rolling(3, "0", "1", "2"), "1", 1, 3, 3), setOf(rolling(3, "0", "1", "2"), "2", 2, 0, 0)), "web:1 3>2;"},
		{"an unavailable new pod is waited for", see(rolling(3, "1", "0", "2"), setOf(rolling(3, "1", "0", "2"), "1", 1, 3, 3), setOf(rolling(3, "1", "0", "2"), "2", 2, 1, 0)), ""},
		{"an available new pod lets an old one go", see(rolling(3, "1", "0", "2"), setOf(rolling(3, "1", "0", "2"), "1", 1, 3, 3), setOf(rolling(3, "1", "0", "2"), "2", 2, 1, 1)), "web:1 3>2;"},
		{"broken old pods go first", see(d10, half("1", 1, 8, 5), half("2", 2, 5, 5)), "web:1 8>3;"},
		{"a crashing rollout keeps the old pods", see(d10, half("1", 1, 8, 8), half("2", 2, 5, 0)), ""},
		{"growing in a rollout is shared by size", see(larger, half("1", 1, 8, 8), half("2", 2, 5, 5)), "web:1 8>14;web:2 5>9;"},
		{"growing a paused one touches the only active set", see(paused, setOf(rolling(3, "1", "0", "2"), "1", 1, 3, 3)), "web:1 3>5;"},
		{"recreate stops the old", see(recreate, setOf(recreate, "1", 1, 3, 3)), "web:1 3>0;"},
		{"recreate waits for old pods", oldPods, ""},
		{"recreate starts the new", see(recreate, setOf(recreate, "1", 1, 0, 0)), "create 3;"},
		{"old revisions are cleaned up, the oldest first", see(keepTwo, setOf(keepTwo, "1", 1, 0, 0), setOf(keepTwo, "2", 2, 0, 0), setOf(keepTwo, "3", 3, 0, 0), setOf(keepTwo, "5", 5, 1, 1)), "delete web:1;"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := summary(decide(test.see)); got != test.want {
				t.Errorf("the plan is %q, want %q", got, test.want)
			}
		})
	}
}

func TestGoingBackRaisesTheRevision(t *testing.T) {
	d := rolling(3, "1", "0", "1")
	got := decide(see(d, setOf(d, "1", 1, 0, 0), setOf(d, "2", 2, 3, 3)))
	if len(got.update) != 1 || got.revision != "3" {
		t.Fatalf("updates %d sets, revision %q", len(got.update), got.revision)
	}
	rs := got.update[0].set
	if rs.Annotations[revisionAnnotation] != "3" || rs.Annotations[historyAnnotation] != "1" || *rs.Spec.Replicas != 1 {
		t.Errorf("the old set became %v with %d replicas", rs.Annotations, *rs.Spec.Replicas)
	}
}

func TestConditions(t *testing.T) {
	d := rolling(2, "1", "0", "1")
	check := func(step, reason string, status corev1.ConditionStatus, available corev1.ConditionStatus) {
		t.Helper()
		c, a := condition(d.Status, appsv1.DeploymentProgressing), condition(d.Status, appsv1.DeploymentAvailable)
		if c == nil || c.Reason != reason || c.Status != status || a.Status != available {
			t.Fatalf("%s: progressing %v, available %v", step, c, a)
		}
	}
	now := start
	at := func(sets ...*appsv1.ReplicaSet) {
		o := see(d, sets...)
		o.now = now
		d.Status = decide(o).status
		now = now.Add(time.Minute)
	}
	at()
	check("made", newReplicaSet, "True", "False")
	at(setOf(d, "1", 1, 2, 1))
	check("one pod is ready", setUpdated, "True", "False")
	now = now.Add(time.Hour)
	at(setOf(d, "1", 1, 2, 1))
	check("no progress for an hour", deadlineExceeded, "False", "False")
	at(setOf(d, "1", 1, 2, 2))
	check("done at last", newSetAvailable, "True", "True")
	d.Spec.Paused = true
	at(setOf(d, "1", 1, 2, 2))
	check("paused", paused, "Unknown", "True")
	d.Spec.Paused = false
	at(setOf(d, "1", 1, 2, 2))
	check("resumed and complete", newSetAvailable, "True", "True")
}
