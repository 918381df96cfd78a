package server

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod in the host's network is as far from the server as any other: behind its board's NAT.
func TestNodeOfAnAddress(t *testing.T) {
	node := func(name, subnet string, own ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: subnet}}
		for _, a := range append(own, name) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Address: a})
		}
		return n
	}
	nodes := []*corev1.Node{
		node("first", "10.42.0.0/24", "192.168.1.2"),
		node("barn", "10.42.1.0/24", "192.168.1.3"),
		node("shed", "10.42.2.0/24", "192.168.1.3", "10.0.0.9"),
		node("new", ""),
	}
	for address, want := range map[string]string{
		"10.42.1.7":   "barn",
		"192.168.1.2": "first",
		"10.0.0.9":    "shed",
		"192.168.1.3": "", // two boards have it
		"203.0.113.1": "",
	} {
		if got := nodeOf(nodes, netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}
