package services

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/internal/golden"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

func TestTable(t *testing.T) {
	k := nfttest.New()
	p := Open(k, Options{Table: table})
	if err := p.Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/everything.nft", k.Text(table))
	if err := p.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := k.Text(table); got != "" {
		t.Errorf("left after the teardown:\n%s", got)
	}
}

// TestKernelTakesTheTable loads the same table into the kernel, and compares what nft lists with what
// the golden file says. Then nft reads its own listing back: a saved ruleset must load again.
func TestKernelTakesTheTable(t *testing.T) {
	ours := nfttest.New()
	if err := Open(ours, Options{Table: table}).Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	nfttest.TakenByKernel(t, table, ours.Text(table), func(conn *nft.Conn) error {
		return Open(conn, Options{Table: table}).Set(context.Background(), everything())
	})
}

// TestLongNames: the longest names that the API takes, with all that makes names of chains longer, are names that the kernel takes. One
// that it refused would leave every node with the Services of before.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("n", 63)
	c := testConfig()
	svc := service(long, "10.43.0.29", corev1.ServicePort{Name: long[:15], Port: 65535, NodePort: 30029, Protocol: corev1.ProtocolSCTP})
	svc.Namespace = long
	svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(86399))}}
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.113.113.113"}}
	svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/25"}
	eps := slice(long, to(long[:15], 65535, corev1.ProtocolSCTP), ep("10.142.101.105", "n1"), ep("10.142.202.106", "n2"))
	eps.Namespace = long
	c.Services, c.Endpoints = []*corev1.Service{svc}, []*discoveryv1.EndpointSlice{eps}
	ours := nfttest.New()
	if err := Open(ours, Options{Table: table}).Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	nfttest.TakenByKernel(t, table, ours.Text(table), func(conn *nft.Conn) error {
		return Open(conn, Options{Table: table}).Set(context.Background(), c)
	})
}
