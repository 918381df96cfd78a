package endpoints

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// pod serves at a port that is named "http".
func pod(name, ip string, port int32, ready bool) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "pi1", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: corev1.ProtocolTCP}}}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

// shown writes subsets in a line: "10.0.0.1 10.0.0.2 -10.0.0.3 :80", where - is one that is not ready.
func shown(subsets []corev1.EndpointSubset) (out string) {
	for _, s := range subsets {
		for _, a := range s.Addresses {
			out += a.IP + " "
		}
		for _, a := range s.NotReadyAddresses {
			out += "-" + a.IP + " "
		}
		for _, p := range s.Ports {
			out += fmt.Sprintf(":%d ", p.Port)
		}
	}
	return out
}

// The Endpoints of a Service follow its pods: each with the port that it names, ready or not, in one order, and nothing is written
// while nothing changes. They go with the Service, unless they are somebody else's.
func TestEndpointsFollowPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		core := api.Client().CoreV1()
		pods, services, all := core.Pods("default"), core.Services("default"), core.Endpoints("default")
		create := func(p *corev1.Pod) {
			t.Helper()
			if _, err := pods.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		create(pod("b", "10.0.0.2", 80, true))
		create(pod("a", "10.0.0.1", 80, true))
		create(pod("c", "10.0.0.3", 80, false))
		create(pod("d", "10.0.0.4", 8080, true))
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"team": "x"}},
			Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.9", Selector: map[string]string{"app": "web"},
				Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}}},
		}
		if _, err := services.Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		byHand := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}}
		if _, err := all.Create(t.Context(), byHand, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		process := api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{
				Client: client, Events: &record.FakeRecorder{}, Services: set.Services(), Pods: set.Pods(), Endpoints: set.Endpoints(), Log: slog.New(slog.DiscardHandler),
			})
		})
		defer process.Stop()
		check := func(want string) {
			t.Helper()
			synctest.Wait()
			e, err := all.Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(e.Subsets); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if e.Labels[managedByLabel] != managedBy || e.Labels["team"] != "x" {
				t.Errorf("labels %v", e.Labels)
			}
		}
		check("10.0.0.1 10.0.0.2 -10.0.0.3 :80 10.0.0.4 :8080 ")
		before := process.Writes()
		now := int64(0)
		if err := pods.Delete(t.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
		check("10.0.0.2 -10.0.0.3 :80 10.0.0.4 :8080 ")
		process.Restart()
		check("10.0.0.2 -10.0.0.3 :80 10.0.0.4 :8080 ")
		if n := process.Writes() - before; n != 1 {
			t.Errorf("%d writes for one change and a new start", n)
		}
		if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := all.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("they outlive their Service: %v", err)
		}
		if _, err := all.Get(t.Context(), "by-hand", metav1.GetOptions{}); err != nil {
			t.Errorf("somebody else's were taken: %v", err)
		}
	})
}

// Beyond a thousand, who is ready is kept before who is not.
func TestReadyEndpointsAreKept(t *testing.T) {
	var list []endpoint
	for i := range capacity + 200 {
		list = append(list, endpoint{ready: i%2 == 0, address: corev1.EndpointAddress{
			IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250), TargetRef: &corev1.ObjectReference{},
		}})
	}
	subsets, truncated := pack(list)
	if !truncated || len(subsets) != 1 || len(subsets[0].Addresses) != (capacity+200)/2 || len(subsets[0].NotReadyAddresses) != capacity-(capacity+200)/2 {
		t.Errorf("%v: %d ready, %d not", truncated, len(subsets[0].Addresses), len(subsets[0].NotReadyAddresses))
	}
}
