package loadbalancer

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// TestLossesAreTold: who wants a port outside that another Service has is told so, once, and again when it is so again.
func TestLossesAreTold(t *testing.T) {
	pool, err := ParsePool([]string{"192.168.1.240"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		pool Pool
		lose func(*corev1.Service)
		want string
	}{
		{"a node port", nil, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort; nodePort(s, 30080) },
			"Warning NodePortInUse Not reached at its node port: port tcp/30080 of the nodes is Service default/web's already, which is of type LoadBalancer; choose another nodePort"},
		{"an address of the pool", pool, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP; asking(s, "192.168.1.240") },
			"Warning ExternalIPInUse Not reached at its externalIPs: port tcp/30080 of 192.168.1.240 is Service default/web's; choose another address or another port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { checkLosses(t, c.pool, c.lose, c.want) })
		})
	}
}

func checkLosses(t *testing.T, pool Pool, lose func(*corev1.Service), want string) {
	ctx, api, recorder := context.Background(), cachetest.New(), record.NewFakeRecorder(10_000)
	defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		return New(Inputs{Client: client, Events: recorder, Services: set.Services(), EndpointSlices: set.EndpointSlices(), Nodes: set.Nodes(),
			Pods: set.Pods(), Ingresses: set.Ingresses(), Classes: set.IngressClasses(), Pool: pool, Log: slog.New(slog.DiscardHandler)})
	}).Stop()
	check := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
	}
	told := func(want string) {
		t.Helper()
		got := ""
		for len(recorder.Events) > 0 {
			if e := <-recorder.Events; strings.Contains(e, "InUse") {
				got += e
			}
		}
		if got != want {
			t.Errorf("got event %q, want %q", got, want)
		}
	}
	client := api.Client().CoreV1()
	check(client.Nodes().Create(ctx, node("a", "192.168.1.1", nil), metav1.CreateOptions{}))
	check(client.Services("default").Create(ctx, service("web", 30080), metav1.CreateOptions{}))
	late := service("late", 30080)
	lose(late)
	check(client.Services("default").Create(ctx, late, metav1.CreateOptions{}))
	told(want)
	check(client.Nodes().Create(ctx, node("b", "192.168.1.2", nil), metav1.CreateOptions{}))
	told("") // nothing new
	check(nil, client.Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	told("")
	again := service("web", 30080)
	again.CreationTimestamp = metav1.Time{}
	check(nil, client.Services("default").Delete(ctx, "late", metav1.DeleteOptions{}))
	check(client.Services("default").Create(ctx, again, metav1.CreateOptions{}))
	check(client.Services("default").Create(ctx, late, metav1.CreateOptions{}))
	told(want)
}
