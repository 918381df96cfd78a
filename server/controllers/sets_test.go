package controllers

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
)

// namedNode is the node that a daemon's affinity names, or the only one.
func namedNode(pod *corev1.Pod) string {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
	}
	return "node"
}

func stateful(replicas int32) *appsv1.StatefulSet {
	limit, none := int32(2), int32(0)
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: cachetest.Template("web", "1"), RevisionHistoryLimit: &limit, PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &none},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
			},
		},
	}
}

func daemons() *appsv1.DaemonSet {
	limit, one, none := int32(2), intstr.FromInt32(1), intstr.FromInt32(0)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: cachetest.Template("web", "1"), RevisionHistoryLimit: &limit,
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &one, MaxSurge: &none},
			},
		},
	}
}

func (c *cluster) addNode(t testing.TB, name string) {
	must(c.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}, metav1.CreateOptions{}))
}

func update[T any](get func() (*T, error), put func(*T) (*T, error), change func(*T)) {
	for {
		object := must(get())
		change(object)
		if _, err := put(object); err == nil {
			return
		}
	}
}

func TestStatefulSet(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	sets := c.client.AppsV1().StatefulSets("default")
	must(sets.Create(ctx, stateful(3), metav1.CreateOptions{}))
	get := func() *appsv1.StatefulSet { return must(sets.Get(ctx, "db", metav1.GetOptions{})) }
	change := func(f func(*appsv1.StatefulSet)) {
		update(func() (*appsv1.StatefulSet, error) { return sets.Get(ctx, "db", metav1.GetOptions{}) },
			func(s *appsv1.StatefulSet) (*appsv1.StatefulSet, error) {
				return sets.Update(ctx, s, metav1.UpdateOptions{})
			}, f)
	}
	done := func(n int32, image string) func() bool {
		return func() bool {
			s := get()
			return s.Status.ObservedGeneration == s.Generation && s.Status.AvailableReplicas == n && s.Status.Replicas == n &&
				s.Status.CurrentRevision == s.Status.UpdateRevision && s.Status.UpdatedReplicas == n && c.images()[image] == int(n)
		}
	}
	eventually(t, "three run", done(3, "web:1"))
	first := get().Status.UpdateRevision
	change(func(s *appsv1.StatefulSet) { s.Spec.Template = cachetest.Template("web", "2") })
	eventually(t, "all are new", done(3, "web:2"))
	change(func(s *appsv1.StatefulSet) { s.Spec.Template = cachetest.Template("web", "1") })
	eventually(t, "all are as they were", done(3, "web:1"))
	if now := get().Status.UpdateRevision; now != first {
		t.Errorf("a rollback made revision %s of what was %s", now, first)
	}
	two := int32(2)
	change(func(s *appsv1.StatefulSet) { s.Spec.Replicas = &two })
	eventually(t, "two are left, and their claims", func() bool {
		return done(2, "web:1")() && len(cachetest.All[corev1.PersistentVolumeClaim](c.api, "", "persistentvolumeclaims")) == 2
	})
	c.quiet(t)
	background := metav1.DeletePropagationBackground
	if err := sets.Delete(ctx, "db", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool {
		return len(cachetest.All[corev1.Pod](c.api, "", "pods"))+len(cachetest.All[corev1.PersistentVolumeClaim](c.api, "", "persistentvolumeclaims"))+
			len(cachetest.All[appsv1.ControllerRevision](c.api, "apps", "controllerrevisions")) == 0
	})
}

func TestDaemonSet(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	sets := c.client.AppsV1().DaemonSets("default")
	must(sets.Create(ctx, daemons(), metav1.CreateOptions{}))
	done := func(n int32, image string) func() bool {
		return func() bool {
			s := must(sets.Get(ctx, "d", metav1.GetOptions{}))
			return s.Status.ObservedGeneration == s.Generation && s.Status.NumberAvailable == n && s.Status.DesiredNumberScheduled == n &&
				s.Status.UpdatedNumberScheduled == n && c.images()[image] == int(n)
		}
	}
	eventually(t, "one runs", done(1, "web:1"))
	c.addNode(t, "second")
	eventually(t, "two run", done(2, "web:1"))
	update(func() (*appsv1.DaemonSet, error) { return sets.Get(ctx, "d", metav1.GetOptions{}) },
		func(s *appsv1.DaemonSet) (*appsv1.DaemonSet, error) {
			return sets.Update(ctx, s, metav1.UpdateOptions{})
		},
		func(s *appsv1.DaemonSet) { s.Spec.Template = cachetest.Template("web", "2") })
	eventually(t, "both are new", done(2, "web:2"))
	pod := cachetest.All[corev1.Pod](c.api, "", "pods")[0]
	pod.Status.Phase = corev1.PodFailed
	must(c.client.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}))
	eventually(t, "a failed one is replaced", func() bool {
		_, err := c.client.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		return err != nil && done(2, "web:2")()
	})
	c.quiet(t)
}

// Random operations on both, with writes that fail and changes that are missed:
// they end as wanted, and then are quiet.
func TestSetsModel(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t)
		ctx := t.Context()
		sets, ds := c.client.AppsV1().StatefulSets("default"), c.client.AppsV1().DaemonSets("default")
		s := stateful(2)
		s.Spec.Selector.MatchLabels, s.Spec.Template.Labels = map[string]string{"app": "db"}, map[string]string{"app": "db"}
		must(sets.Create(ctx, s, metav1.CreateOptions{}))
		must(ds.Create(ctx, daemons(), metav1.CreateOptions{}))
		change := func(f func(*appsv1.StatefulSet)) {
			update(func() (*appsv1.StatefulSet, error) { return sets.Get(ctx, "db", metav1.GetOptions{}) },
				func(s *appsv1.StatefulSet) (*appsv1.StatefulSet, error) {
					return sets.Update(ctx, s, metav1.UpdateOptions{})
				}, f)
		}
		for range rapid.IntRange(1, 6).Draw(rt, "operations") {
			switch operation := rapid.SampledFrom([]string{"scale", "image", "daemon", "kill", "break", "fail", "forget", "wait"}).Draw(rt, "operation"); operation {
			case "scale":
				n := rapid.Int32Range(0, 4).Draw(rt, "replicas")
				change(func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
			case "image":
				v := fmt.Sprint(rapid.IntRange(1, 3).Draw(rt, "version"))
				change(func(s *appsv1.StatefulSet) { s.Spec.Template.Spec = cachetest.Template("web", v).Spec })
			case "daemon":
				v := fmt.Sprint(rapid.IntRange(1, 3).Draw(rt, "version"))
				update(func() (*appsv1.DaemonSet, error) { return ds.Get(ctx, "d", metav1.GetOptions{}) },
					func(s *appsv1.DaemonSet) (*appsv1.DaemonSet, error) { return ds.Update(ctx, s, metav1.UpdateOptions{}) },
					func(s *appsv1.DaemonSet) { s.Spec.Template = cachetest.Template("web", v) })
			default:
				c.disturb(rt, operation)
			}
		}
		c.calm()
		eventually(rt, "both are as wanted", func() bool {
			s, d := must(sets.Get(ctx, "db", metav1.GetOptions{})), must(ds.Get(ctx, "d", metav1.GetOptions{}))
			n := *s.Spec.Replicas
			return s.Status.ObservedGeneration == s.Generation && s.Status.Replicas == n && s.Status.AvailableReplicas == n && s.Status.UpdatedReplicas == n &&
				d.Status.ObservedGeneration == d.Generation && d.Status.NumberAvailable == 1 && d.Status.UpdatedNumberScheduled == 1 &&
				len(cachetest.All[corev1.Pod](c.api, "", "pods")) == int(n)+1
		})
		c.quiet(rt)
	})
}
