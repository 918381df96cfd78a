package endpointslice

import (
	"log/slog"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// A slice says whether its Service is headless, also when nothing but that has changed: through ExternalName, one with an address
// becomes headless and the other way round.
func TestHeadlessLabelFollowsTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, api := t.Context(), cachetest.New()
		process := api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Events: record.NewFakeRecorder(100), Services: set.Services(), Pods: set.Pods(), Nodes: set.Nodes(),
				EndpointSlices: set.EndpointSlices(), Log: slog.New(slog.DiscardHandler)})
		})
		defer process.Stop()
		check := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		client := api.Client().CoreV1()
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "s"}}
		service.Spec.Selector, service.Spec.Ports, service.Spec.ClusterIP = map[string]string{"app": "web"}, []corev1.ServicePort{{Port: 80}}, corev1.ClusterIPNone
		service.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		check(client.Services("default").Create(ctx, service, metav1.CreateOptions{}))
		check(client.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{}))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", UID: "p", Labels: map[string]string{"app": "web"}}}
		pod.Spec.NodeName, pod.Status.PodIPs = "node", []corev1.PodIP{{IP: "10.42.0.2"}}
		pod.Status.PodIP = pod.Status.PodIPs[0].IP
		check(client.Pods("default").Create(ctx, pod, metav1.CreateOptions{}))
		for _, ip := range []string{corev1.ClusterIPNone, "10.43.0.7", corev1.ClusterIPNone, "10.43.0.7"} {
			present, err := client.Services("default").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			present.Spec.ClusterIP = ip
			check(client.Services("default").Update(ctx, present, metav1.UpdateOptions{}))
			slices := cachetest.All[discoveryv1.EndpointSlice](api, "discovery.k8s.io", "endpointslices")
			if len(slices) != 1 {
				t.Fatalf("%d slices", len(slices))
			}
			want := map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: managedBy}
			if ip == corev1.ClusterIPNone {
				want[corev1.IsHeadlessService] = ""
			}
			if got := labelsOf(slices[0]); got != labelsOf(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Labels: want}}) {
				t.Errorf("with the address %s: labels %s", ip, got)
			}
		}
		writes := process.Writes()
		process.Restart()
		synctest.Wait()
		if n := process.Writes(); n != writes {
			t.Errorf("%d writes though nothing changed", n-writes)
		}
	})
}

func labelsOf(s *discoveryv1.EndpointSlice) string {
	return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: s.Labels})
}
