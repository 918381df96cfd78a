package controllers

import (
	"context"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

func work(completions int32, ttl *int32) *batchv1.Job {
	mode, two, limit := batchv1.NonIndexedCompletion, int32(2), int32(6)
	labels := map[string]string{batchv1.JobNameLabel: "work"}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: "default"},
		Spec: batchv1.JobSpec{
			CompletionMode: &mode, Completions: &completions, Parallelism: &two, BackoffLimit: &limit, TTLSecondsAfterFinished: ttl,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "work:1"}},
			}},
		},
	}
}

// succeed ends the pods that run.
func (c *cluster) succeed() {
	for _, p := range cachetest.All[corev1.Pod](c.api, "", "pods") {
		if p.Status.Phase == corev1.PodRunning {
			p.Status.Phase = corev1.PodSucceeded
			_, _ = c.client.CoreV1().Pods(p.Namespace).UpdateStatus(context.Background(), p, metav1.UpdateOptions{})
		}
	}
}

func (c *cluster) left() int {
	return len(cachetest.All[corev1.Pod](c.api, "", "pods")) + len(cachetest.All[batchv1.Job](c.api, "batch", "jobs"))
}

// A Job runs to its end and then goes by itself: its time is over, the garbage
// collector deletes its pods first, and no finalizer holds any of it back.
func TestJobComesAndGoes(t *testing.T) {
	c := newCluster(t)
	ttl := int32(1)
	must(c.client.BatchV1().Jobs("default").Create(t.Context(), work(3, &ttl), metav1.CreateOptions{}))
	complete := false
	eventually(t, "the Job is gone", func() bool {
		c.succeed()
		for _, j := range cachetest.All[batchv1.Job](c.api, "batch", "jobs") {
			complete = complete || slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobComplete && j.Status.Succeeded == 3 })
		}
		return c.left() == 0
	})
	if !complete {
		t.Error("the Job was never complete")
	}
	c.quiet(t)
}

// Deleted while it runs, in each of the ways: pods are in nobody's way, and
// those that are set free have no finalizer that nobody would take.
func TestJobIsDeletedWhileItRuns(t *testing.T) {
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(how), func(t *testing.T) {
			c := newCluster(t)
			jobs := c.client.BatchV1().Jobs("default")
			must(jobs.Create(t.Context(), work(3, nil), metav1.CreateOptions{}))
			eventually(t, "two run", func() bool {
				return len(pods.Filter(cachetest.All[corev1.Pod](c.api, "", "pods"), pods.IsReady)) == 2
			})
			if err := jobs.Delete(t.Context(), "work", metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
				t.Fatal(err)
			}
			if how == metav1.DeletePropagationOrphan {
				eventually(t, "two pods are free", func() bool {
					all := cachetest.All[corev1.Pod](c.api, "", "pods")
					return c.left() == 2 && len(all) == 2 && !slices.ContainsFunc(all, func(p *corev1.Pod) bool { return len(p.Finalizers)+len(p.OwnerReferences) > 0 })
				})
			} else {
				eventually(t, "nothing is left", func() bool { return c.left() == 0 })
			}
			c.quiet(t)
		})
	}
}

// A pod that never came to a node and that a finalizer holds ends as failed, so
// that whoever counts it knows how, and then nobody touches it until it is free.
func TestHeldPodIsEndedOnce(t *testing.T) {
	c := newCluster(t)
	now, zero := metav1.Now(), int64(0)
	client := c.client.CoreV1().Pods("default")
	must(client.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "held", DeletionTimestamp: &now, DeletionGracePeriodSeconds: &zero, Finalizers: []string{"example.com/hold"},
	}}, metav1.CreateOptions{}))
	eventually(t, "it has failed", func() bool {
		return must(client.Get(t.Context(), "held", metav1.GetOptions{})).Status.Phase == corev1.PodFailed
	})
	c.quiet(t)
	free := must(client.Get(t.Context(), "held", metav1.GetOptions{}))
	free.Finalizers = nil
	must(client.Update(t.Context(), free, metav1.UpdateOptions{}))
	eventually(t, "it is gone", func() bool { return c.left() == 0 })
}
