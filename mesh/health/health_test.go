package health

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// free is a port that nobody has just now.
func free(t *testing.T) int32 {
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func ask(port int32) string {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
	if err != nil {
		return "nobody"
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), " ", strings.TrimSpace(string(body)))
}

// TestLoadBalancersAreTold follows a Service through its life.
func TestLoadBalancersAreTold(t *testing.T) {
	var failures []string
	s := Open(Options{Logger: slog.New(slog.DiscardHandler), Enter: func(f func() error) error { return f() },
		Failed: func(svc *corev1.Service, err error) { failures = append(failures, svc.Name+": "+err.Error()) }})
	defer s.Close()
	svc := &corev1.Service{}
	svc.Namespace, svc.Name = "default", "web"
	svc.Spec.Type, svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, free(t)
	endpoint := func(ip, node string, ready bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	}
	set := func(healthy bool, list ...discoveryv1.Endpoint) {
		slice := &discoveryv1.EndpointSlice{Endpoints: list}
		slice.Namespace, slice.Labels = "default", map[string]string{discoveryv1.LabelServiceName: "web"}
		other := &discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{endpoint("10.42.1.9", "n1", true)}}
		other.Namespace, other.Labels = "other", slice.Labels
		s.Set(Config{Node: "n1", Services: []*corev1.Service{svc}, Endpoints: []*discoveryv1.EndpointSlice{slice, slice, other}, Healthy: healthy})
	}
	said := func(code, count int, healthy bool) string {
		return fmt.Sprintf(`%d %d {"service":{"namespace":"default","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":%v}`, code, count, count, healthy)
	}
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"no endpoint", func() { set(true) }, said(503, 0, true)},
		{"one here", func() { set(true, endpoint("10.42.1.5", "n1", true), endpoint("10.42.2.6", "n2", true)) }, said(200, 1, true)},
		{"two here", func() { set(true, endpoint("10.42.1.5", "n1", true), endpoint("10.42.1.6", "n1", true)) }, said(200, 2, true)},
		{"not ready", func() { set(true, endpoint("10.42.1.5", "n1", false)) }, said(503, 0, true)},
		{"the rules failed", func() { set(false, endpoint("10.42.1.5", "n1", true)) }, said(503, 1, false)},
		{"policy Cluster", func() { svc.Spec.ExternalTrafficPolicy = ""; set(true) }, "nobody"},
	} {
		step.do()
		if got := ask(svc.Spec.HealthCheckNodePort); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	taken, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	svc.Spec.ExternalTrafficPolicy, svc.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, int32(taken.Addr().(*net.TCPAddr).Port)
	set(true)
	set(true)
	if len(failures) != 1 || !strings.Contains(failures[0], "web: listen") {
		t.Errorf("said of a port that somebody else has: %q", failures)
	}
	taken.Close()
	set(true)
	if got := ask(svc.Spec.HealthCheckNodePort); got != said(503, 0, true) {
		t.Errorf("free again: %s", got)
	}
}
