package deployment

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	appsv1 "k8s.io/api/apps/v1"

	"bramble.dev/server/cache/cachetest"
)

func typesUID(s string) types.UID { return types.UID(s) }

// world is a Deployment with its ReplicaSets, whose statuses follow late.
type world struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	now  time.Time
}

func (w *world) plan() plan {
	w.now = w.now.Add(time.Second)
	return decide(observed{deployment: w.d, sets: w.sets, now: w.now, oldPods: func(current *appsv1.ReplicaSet) bool {
		for _, rs := range w.sets {
			if (current == nil || rs.UID != current.UID) && rs.Status.Replicas > 0 {
				return true
			}
		}
		return false
	}})
}

func (w *world) apply(p plan) (writes int) {
	if p.create != nil {
		p.create.UID = typesUID(p.create.Name)
		p.create.CreationTimestamp = metav1.NewTime(w.now)
		w.sets = append(w.sets, p.create)
		writes++
	}
	for _, u := range p.update {
		for i, rs := range w.sets {
			if rs.UID == u.set.UID {
				u.set.Generation++
				w.sets[i] = u.set
			}
		}
		writes++
	}
	for _, gone := range p.delete {
		var left []*appsv1.ReplicaSet
		for _, rs := range w.sets {
			if rs.UID != gone.UID {
				left = append(left, rs)
			}
		}
		w.sets = left
		writes++
	}
	if !equality.Semantic.DeepEqual(w.d.Status, p.status) {
		writes++
	}
	w.d.Status = p.status
	if p.revision != "" {
		metav1.SetMetaDataAnnotation(&w.d.ObjectMeta, revisionAnnotation, p.revision)
	}
	return writes
}

// settleSet lets a ReplicaSet's pods follow its size; healthy says how many become available.
func settleSet(rs *appsv1.ReplicaSet, available int32) {
	rs.Status.ObservedGeneration = rs.Generation
	rs.Status.Replicas = *rs.Spec.Replicas
	rs.Status.AvailableReplicas = min(available, rs.Status.Replicas)
	rs.Status.ReadyReplicas = rs.Status.AvailableReplicas
	rs.Status.TerminatingReplicas = p(int32(0))
}

func (w *world) total() (n int32) { return sum(w.sets, wantedReplicas) }

// available counts pods that surely stay: no more than a set was told to keep.
func (w *world) available() (n int32) { return sum(w.sets, stillAvailable) }

func (w *world) converge(t *rapid.T) {
	for range 200 {
		writes := w.apply(w.plan())
		quiet := true
		for _, rs := range w.sets {
			if rs.Status.AvailableReplicas != *rs.Spec.Replicas || rs.Status.Replicas != *rs.Spec.Replicas || rs.Generation != rs.Status.ObservedGeneration {
				quiet = false
				settleSet(rs, *rs.Spec.Replicas)
			}
		}
		if writes == 0 && quiet {
			return
		}
	}
	t.Fatal("does not converge")
}

func TestRolloutsKeepTheirBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		versions := rapid.IntRange(1, 4)
		w := &world{d: rolling(rapid.Int32Range(0, 12).Draw(t, "replicas"), "1", "0", "1"), now: start}
		draw := rapid.SampledFrom([]string{"0", "1", "2", "25%", "50%", "100%"})
		surge, unavailable := intstr.Parse(draw.Draw(t, "surge")), intstr.Parse(draw.Draw(t, "unavailable"))
		w.d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}
		w.converge(t)
		t.Repeat(map[string]func(*rapid.T){
			"template": func(t *rapid.T) {
				w.d.Spec.Template = cachetest.Template("web", fmt.Sprint(versions.Draw(t, "version")))
				w.d.Generation++
			},
			"step": func(t *rapid.T) {
				before, had := w.total(), w.available()
				resized := (&planner{d: w.d, old: w.sets}).wasResized()
				w.apply(w.plan())
				s, u := bounds(w.d)
				if after := w.total(); !resized && after > before && after > *w.d.Spec.Replicas+s {
					t.Fatalf("%d pods are asked for, more than %d+%d", after, *w.d.Spec.Replicas, s)
				}
				if least := *w.d.Spec.Replicas - u; !resized && w.available() < had && w.available() < least {
					t.Fatalf("%d of %d available pods are left, fewer than %d", w.available(), had, least)
				}
			},
			"pods": func(t *rapid.T) {
				if len(w.sets) == 0 {
					return
				}
				rs := rapid.SampledFrom(w.sets).Draw(t, "set")
				settleSet(rs, rapid.Int32Range(0, *rs.Spec.Replicas).Draw(t, "available"))
			},
			"scale": func(t *rapid.T) {
				w.d.Spec.Replicas = p(rapid.Int32Range(0, 12).Draw(t, "replicas"))
				w.d.Generation++
			},
			"pause": func(t *rapid.T) {
				w.d.Spec.Paused = !w.d.Spec.Paused
				w.d.Generation++
			},
		})
		w.d.Spec.Paused = false
		w.converge(t)
		current, old := split(w.d, w.sets)
		if *current.Spec.Replicas != *w.d.Spec.Replicas || sum(old, wantedReplicas) != 0 {
			t.Fatalf("ends with %d new and %d old of %d", *current.Spec.Replicas, sum(old, wantedReplicas), *w.d.Spec.Replicas)
		}
		if !complete(w.d, w.d.Status) || condition(w.d.Status, appsv1.DeploymentProgressing).Reason != newSetAvailable {
			t.Fatalf("the status does not say that it is complete: %+v", w.d.Status)
		}
		if p := w.plan(); summary(p) != "" || p.wake != 0 {
			t.Fatalf("a second plan after success does %q, wakes after %v", summary(p), p.wake)
		}
	})
}

func TestRecreateNeverMixes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{d: rolling(3, "0", "1", "1"), now: start}
		w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		w.converge(t)
		t.Repeat(map[string]func(*rapid.T){
			"template": func(t *rapid.T) {
				w.d.Spec.Template = cachetest.Template("web", fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "version")))
				w.d.Generation++
			},
			"step": func(t *rapid.T) {
				w.apply(w.plan())
				running := 0
				for _, rs := range w.sets {
					if max(*rs.Spec.Replicas, rs.Status.Replicas) > 0 {
						running++
					}
				}
				if running > 1 {
					t.Fatal("pods of two templates run at once")
				}
			},
			"pods": func(t *rapid.T) {
				rs := rapid.SampledFrom(w.sets).Draw(t, "set")
				settleSet(rs, *rs.Spec.Replicas)
			},
		})
		w.converge(t)
	})
}
