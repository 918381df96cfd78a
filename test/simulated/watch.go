package simulated

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// Load is what a cluster is asked to run: Deployments, the first of which have a Service each.
type Load struct{ Deployments, Replicas, Services int }

// Create makes it.
func (l Load) Create(ctx context.Context, client kubernetes.Interface) error {
	for i := range l.Deployments {
		name := nameOf(i)
		labels := map[string]string{"app": name}
		if i < l.Services {
			_, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
		}
		replicas := int32(l.Replicas)
		_, err := client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox", ImagePullPolicy: corev1.PullIfNotPresent}}}}}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

func nameOf(i int) string { return fmt.Sprintf("load-%03d", i) }

// Pace is how long pods took from being bound until the API said that they are Ready, by node: the longest of each.
type Pace struct {
	Took            time.Duration // until all were
	Median, Slowest time.Duration
	SlowestNode     string
}

// AllReady waits until count pods are Ready, as a watch of the API tells. Call it before they are made: what they wait for
// is told apart by node.
func AllReady(ctx context.Context, client kubernetes.Interface, count int) (Pace, error) {
	began := time.Now()
	bound, slowest, ready := map[string]time.Time{}, map[string]time.Duration{}, map[string]bool{}
	see := func(p *corev1.Pod) {
		now := time.Now()
		if p.Spec.NodeName == "" || ready[p.Name] {
			return
		}
		if _, seen := bound[p.Name]; !seen {
			bound[p.Name] = now
		}
		if isReady(p) {
			ready[p.Name] = true
			slowest[p.Spec.NodeName] = max(slowest[p.Spec.NodeName], now.Sub(bound[p.Name]))
		}
	}
	for len(ready) < count {
		if err := watch(ctx, client, see, func() bool { return len(ready) >= count }); err != nil {
			return Pace{}, fmt.Errorf("%d of %d pods are Ready: %w", len(ready), count, err)
		}
	}
	pace := Pace{Took: time.Since(began)}
	var all []time.Duration
	for node, d := range slowest {
		all = append(all, d)
		if d > pace.Slowest {
			pace.Slowest, pace.SlowestNode = d, node
		}
	}
	slices.Sort(all)
	pace.Median = all[len(all)/2]
	return pace, nil
}

// watch lists and watches once, until enough is seen or the server ends the watch.
func watch(ctx context.Context, client kubernetes.Interface, see func(*corev1.Pod), enough func() bool) error {
	list, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		see(&list.Items[i])
	}
	w, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	for !enough() {
		event, ok := <-w.ResultChan()
		if !ok {
			return ctx.Err()
		}
		if p, is := event.Object.(*corev1.Pod); is {
			see(p)
		}
	}
	return nil
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// NodesReady waits until count nodes are Ready.
func NodesReady(ctx context.Context, client kubernetes.Interface, count int) error {
	for {
		ready := 0
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if ready >= count {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d nodes are Ready: %w", ready, count, ctx.Err())
		}
	}
}
