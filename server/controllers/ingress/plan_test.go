package ingress

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/entrance"
)

func node(name, ip string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
	}}
	for _, f := range change {
		f(n)
	}
	return n
}

func labelled(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func busy(port uint16) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: link.PortsFree, Status: corev1.ConditionFalse,
			Message: link.PortsMessage([]link.PortInUse{{Protocol: corev1.ProtocolTCP, Port: port, By: "nginx"}})})
	}
}

func unready(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }

// TestWhereAnIngressIsServed: only nodes are told at which a request gets to the Ingress.
func TestWhereAnIngressIsServed(t *testing.T) {
	tcp := func(port int32) map[string][]entrance.Port {
		return map[string][]entrance.Port{"b": {{Protocol: corev1.ProtocolTCP, Number: port}}}
	}
	for _, c := range []struct {
		name      string
		b         *corev1.Node // beside a node that always serves
		hostPorts map[string][]entrance.Port
		plain     string // where an Ingress without TLS is told to be
		secure    string
	}{
		{"both", node("b", "192.168.1.2"), nil, "1 2", "1 2"},
		{"not ready", node("b", "192.168.1.2", unready), nil, "1", "1"},
		{"kept out of load balancers", node("b", "192.168.1.2", labelled(corev1.LabelNodeExcludeBalancers, "")), nil, "1", "1"},
		{"kept from Ingresses", node("b", "192.168.1.2", labelled(link.IngressLabel, "false")), nil, "1", "1"},
		{"a program has port 80", node("b", "192.168.1.2", busy(80)), nil, "1", "1"},
		{"a program has port 443", node("b", "192.168.1.2", busy(443)), nil, "1 2", "1"},
		{"a program has another port", node("b", "192.168.1.2", busy(8080)), nil, "1 2", "1 2"},
		{"a pod has port 80", node("b", "192.168.1.2"), tcp(80), "1", "1"},
		{"a pod has port 443", node("b", "192.168.1.2"), tcp(443), "1 2", "1"},
		{"a pod has UDP port 443", node("b", "192.168.1.2"), map[string][]entrance.Port{"b": {{Protocol: corev1.ProtocolUDP, Number: 443}}}, "1 2", "1 2"},
		{"other ports", node("b", "192.168.1.2", labelled(link.IngressLabel, "8080-8443")), tcp(80), "1 2:8080", "1 2:8080:8443"},
		{"other ports, taken", node("b", "192.168.1.2", labelled(link.IngressLabel, "8080-8443"), busy(8080)), nil, "1", "1"},
		{"HTTPS alone", node("b", "192.168.1.2", labelled(link.IngressLabel, "0-443")), nil, "1 2:443", "1 2:443"},
		{"a label that says nothing", node("b", "192.168.1.2", labelled(link.IngressLabel, "true")), nil, "1 2", "1 2"},
		{"no address", node("b", ""), nil, "1", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for secure, want := range map[bool]string{false: c.plain, true: c.secure} {
				var got []string
				for _, in := range decide([]*corev1.Node{c.b, node("a", "192.168.1.1")}, c.hostPorts, secure) {
					text := strings.TrimPrefix(in.IP, "192.168.1.")
					for _, p := range in.Ports {
						text += fmt.Sprintf(":%d", p.Port)
					}
					got = append(got, text)
				}
				if s := strings.Join(got, " "); s != want {
					t.Errorf("with TLS %v: %q, want %q", secure, s, want)
				}
			}
		})
	}
}
