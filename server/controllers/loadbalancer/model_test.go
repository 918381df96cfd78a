package loadbalancer

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// TestAnAddressIsGivenOnce: whatever is asked for, and wherever the server stops, no two Services have one address at any
// moment; and once it is quiet, every Service that can have one does, and nothing is written any more.
func TestAnAddressIsGivenOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { cachetest.InBubble(t, rt, checkAddresses) })
}

func checkAddresses(rt *rapid.T) {
	pool, err := ParsePool([]string{"10.0.0.1-10.0.0.3"})
	if err != nil {
		rt.Fatal(err)
	}
	api := cachetest.New()
	once := func() {
		owners := map[string]string{}
		for _, s := range cachetest.All[corev1.Service](api, "", "services") {
			for _, in := range s.Status.LoadBalancer.Ingress {
				if other := owners[in.IP]; other != "" {
					rt.Fatalf("%s is %s's and %s's", in.IP, other, s.Name)
				}
				owners[in.IP] = s.Name
				if !hasFinalizer(s) {
					rt.Fatalf("%s has %s and no finalizer", s.Name, in.IP)
				}
			}
		}
	}
	api.Wrote = func(string, schema.GroupResource, string, runtime.Object) { once() }
	p := api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		return New(Inputs{Client: client, Events: record.NewFakeRecorder(10_000), Services: set.Services(), EndpointSlices: set.EndpointSlices(),
			Nodes: set.Nodes(), Pods: set.Pods(), Ingresses: set.Ingresses(), Classes: set.IngressClasses(), Pool: pool, Log: slog.New(slog.DiscardHandler)})
	})
	defer func() { p.Stop() }()
	client := api.Client().CoreV1().Services("default")
	ctx := context.Background()
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	change := func(rt *rapid.T, do func(*corev1.Service)) {
		s, err := client.Get(ctx, name.Draw(rt, "name"), metav1.GetOptions{})
		if err != nil {
			return
		}
		do(s)
		_, _ = client.Update(ctx, s, metav1.UpdateOptions{}) // the API may refuse
	}
	rt.Repeat(map[string]func(*rapid.T){
		"create": func(rt *rapid.T) {
			s := service(name.Draw(rt, "name"), 80)
			s.Spec.LoadBalancerIP = rapid.SampledFrom([]string{"", "", "", "10.0.0.2", "10.9.9.9"}).Draw(rt, "wish")
			_, _ = client.Create(ctx, s, metav1.CreateOptions{})
		},
		"delete": func(rt *rapid.T) { _ = client.Delete(ctx, name.Draw(rt, "name"), metav1.DeleteOptions{}) },
		"wish": func(rt *rapid.T) {
			change(rt, func(s *corev1.Service) {
				s.Spec.LoadBalancerIP = rapid.SampledFrom([]string{"", "10.0.0.1", "10.0.0.2", "10.0.0.3"}).Draw(rt, "wish")
			})
		},
		"type": func(rt *rapid.T) {
			change(rt, func(s *corev1.Service) {
				s.Spec.Type = rapid.SampledFrom([]corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeLoadBalancer}).Draw(rt, "type")
			})
		},
		"wait":    func(*rapid.T) { time.Sleep(10 * time.Millisecond); synctest.Wait() },
		"crash":   func(rt *rapid.T) { p.CrashAfter(rapid.Int64Range(0, 3).Draw(rt, "writes")) },
		"restart": func(*rapid.T) { p.Restart() },
		"refuse": func(rt *rapid.T) {
			n := 0
			api.SetFail(func(string, schema.GroupResource, runtime.Object) error {
				if n++; n%3 == 0 {
					return errors.New("no")
				}
				return nil
			})
		},
		"": func(*rapid.T) { once() },
	})
	api.SetFail(nil)
	p.Restart()
	time.Sleep(5 * time.Minute)
	synctest.Wait()
	settled(rt, api)
	writes := p.Writes()
	time.Sleep(time.Minute)
	synctest.Wait()
	if p.Writes() != writes {
		rt.Fatalf("%d writes of what is as it should be", p.Writes()-writes)
	}
}

func settled(rt *rapid.T, api *cachetest.API) {
	services := cachetest.All[corev1.Service](api, "", "services")
	given := 0
	for _, s := range services {
		given += len(s.Status.LoadBalancer.Ingress)
	}
	for _, s := range services {
		n := len(s.Status.LoadBalancer.Ingress)
		switch {
		case s.DeletionTimestamp != nil:
			rt.Fatalf("%s is kept", s.Name)
		case s.Spec.Type != corev1.ServiceTypeLoadBalancer && (n > 0 || hasFinalizer(s)):
			rt.Fatalf("%s keeps %v", s.Name, s.Status)
		case s.Spec.Type == corev1.ServiceTypeLoadBalancer && n == 0 && s.Spec.LoadBalancerIP == "" && given < 3:
			rt.Fatalf("%s has no address, and %d are free", s.Name, 3-given)
		case n > 0 && s.Spec.LoadBalancerIP != "" && s.Status.LoadBalancer.Ingress[0].IP != s.Spec.LoadBalancerIP:
			rt.Fatalf("%s has %v and asked for %s", s.Name, s.Status, s.Spec.LoadBalancerIP)
		}
	}
}
