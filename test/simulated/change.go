package simulated

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// OneMore scales a Deployment of the load up by one pod, and tells how long it took until that was bound and until it was
// Ready.
func OneMore(ctx context.Context, client kubernetes.Interface, deployment string) (bound, ready time.Duration, err error) {
	of := metav1.ListOptions{LabelSelector: "app=" + deployment}
	list, err := client.CoreV1().Pods("default").List(ctx, of)
	if err != nil {
		return 0, 0, err
	}
	before := map[types.UID]bool{}
	for i := range list.Items {
		before[list.Items[i].UID] = true
	}
	of.ResourceVersion = list.ResourceVersion
	w, err := client.CoreV1().Pods("default").Watch(ctx, of)
	if err != nil {
		return 0, 0, err
	}
	defer w.Stop()
	began := time.Now()
	scale := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, len(list.Items)+1)
	if _, err := client.AppsV1().Deployments("default").Patch(ctx, deployment, types.MergePatchType, scale, metav1.PatchOptions{}); err != nil {
		return 0, 0, err
	}
	for event := range w.ResultChan() {
		p, ok := event.Object.(*corev1.Pod)
		if !ok || before[p.UID] {
			continue
		}
		if bound == 0 && p.Spec.NodeName != "" {
			bound = time.Since(began)
		}
		if isReady(p) {
			return bound, time.Since(began), nil
		}
	}
	return 0, 0, fmt.Errorf("one pod more of %s: the watch ended", deployment)
}

// Roll changes the template of the first Deployments of the load, and tells how long it took until all their pods were
// replaced.
func Roll(ctx context.Context, client kubernetes.Interface, deployments int) (time.Duration, error) {
	began := time.Now()
	change := fmt.Appendf(nil, `{"spec":{"template":{"metadata":{"annotations":{"rolled":%q}}}}}`, began)
	for i := range deployments {
		if _, err := client.AppsV1().Deployments("default").Patch(ctx, nameOf(i), types.MergePatchType, change, metav1.PatchOptions{}); err != nil {
			return 0, err
		}
	}
	for i := 0; i < deployments; {
		d, err := client.AppsV1().Deployments("default").Get(ctx, nameOf(i), metav1.GetOptions{})
		if err != nil {
			return 0, err
		}
		want, s := *d.Spec.Replicas, d.Status
		if s.ObservedGeneration == d.Generation && s.UpdatedReplicas == want && s.AvailableReplicas == want && s.Replicas == want {
			i++
			continue
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d Deployments are rolled: %w", i, deployments, ctx.Err())
		}
	}
	return time.Since(began), nil
}
