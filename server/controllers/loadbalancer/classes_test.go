package loadbalancer

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// TestIngressesOfOthers: Ingresses that the nodes serve keep the web's ports from a Service. Those of another class do not: the
// Service may well be their controller's own. Nor do those whose class is gone, to make room for another controller.
func TestIngressesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		api := cachetest.New()
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Events: record.NewFakeRecorder(10_000), Services: set.Services(), EndpointSlices: set.EndpointSlices(),
				Nodes: set.Nodes(), Pods: set.Pods(), Ingresses: set.Ingresses(), Classes: set.IngressClasses(), Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		client := api.Client()
		check := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		class := func(name, controller string) *networkingv1.IngressClass {
			return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
		}
		site := func(name, class string) *networkingv1.Ingress {
			in := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: networkingv1.IngressSpec{IngressClassName: &class}}
			in.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "192.168.1.1"}}
			return in
		}
		addresses := func(want int) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			svc, err := client.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(svc.Status.LoadBalancer.Ingress); n != want {
				t.Errorf("the Service has %d addresses, want %d", n, want)
			}
		}
		check(client.CoreV1().Nodes().Create(ctx, node("a", "192.168.1.1", nil), metav1.CreateOptions{}))
		check(client.NetworkingV1().IngressClasses().Create(ctx, class("bramble", link.IngressController), metav1.CreateOptions{}))
		check(client.NetworkingV1().IngressClasses().Create(ctx, class("nginx", "k8s.io/ingress-nginx"), metav1.CreateOptions{}))
		check(client.NetworkingV1().Ingresses("default").Create(ctx, site("theirs", "nginx"), metav1.CreateOptions{}))
		check(client.NetworkingV1().Ingresses("default").Create(ctx, site("ours", "bramble"), metav1.CreateOptions{}))
		time.Sleep(time.Second) // all of this is known
		synctest.Wait()
		check(client.CoreV1().Services("default").Create(ctx, service("web", 80), metav1.CreateOptions{}))
		addresses(0)
		check(nil, client.NetworkingV1().IngressClasses().Delete(ctx, "bramble", metav1.DeleteOptions{}))
		addresses(1)
	})
}
