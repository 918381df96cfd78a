package cachetest

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// Template is of pods with one container, whose image has the app's name and a version.
func Template(app, version string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: app + ":" + version}}},
	}
}

// Running is a pod as its node tells of it: it runs, and is ready or not since then.
func Running(pod *corev1.Pod, ready bool, since time.Time) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pods.SetCondition(pod, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(since)})
	return pod
}

// Advance is scheduler and node of a pod: it comes to a node, then it runs and is ready, and once it was asked to it goes.
func (a *API) Advance(pod *corev1.Pod, node string) {
	client, ctx, none := a.Client().CoreV1().Pods(pod.Namespace), context.Background(), int64(0)
	switch {
	case pod.DeletionTimestamp != nil:
		_ = client.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
	case pod.Spec.NodeName == "":
		_ = client.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}, Target: corev1.ObjectReference{Name: node}}, metav1.CreateOptions{})
	case pods.IsActive(pod) && !pods.IsReady(pod):
		_, _ = client.UpdateStatus(ctx, Running(pod, true, a.Now()), metav1.UpdateOptions{})
	}
}
