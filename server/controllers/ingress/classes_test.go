package ingress

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// TestAnotherClass: an Ingress that is another controller's loses what was told here, and nothing that the other told.
func TestAnotherClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		api := cachetest.New()
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Ingresses: set.Ingresses(), Classes: set.IngressClasses(), Nodes: set.Nodes(), Pods: set.Pods(), Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		client := api.Client()
		for name, controller := range map[string]string{"bramble": link.IngressController, "nginx": "k8s.io/ingress-nginx"} {
			class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.IngressClassSpec{Controller: controller}}
			if _, err := client.NetworkingV1().IngressClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.CoreV1().Nodes().Create(ctx, node("a", "192.168.1.1"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ingresses := client.NetworkingV1().Ingresses("default")
		for name, who := range map[string]string{"ours": manager, "theirs": "nginx-ingress-controller"} {
			class := "nginx"
			in := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: networkingv1.IngressSpec{IngressClassName: &class}}
			in.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}, {Manager: who, Subresource: "status"}}
			in.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "192.168.1.1"}}
			if _, err := ingresses.Create(ctx, in, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		addresses := func(name string, want int) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			in, err := ingresses.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if n := len(in.Status.LoadBalancer.Ingress); n != want {
				t.Errorf("%s has %d addresses, want %d", name, n, want)
			}
		}
		addresses("ours", 0)
		addresses("theirs", 1)
	})
}
