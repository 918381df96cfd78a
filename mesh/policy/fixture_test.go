package policy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const tableName = "bramble-abcdef-policy"

func ptr[T any](v T) *T { return &v }

func labelled(kv ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		s.MatchLabels[kv[i]] = kv[i+1]
	}
	return s
}

func here(ip, namespace, name string, kv ...string) Pod {
	return Pod{IP: netip.MustParseAddr(ip), Namespace: namespace, Name: name, Labels: labelled(kv...).MatchLabels, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}}}
}

func peer(ip, namespace, name string, kv ...string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.Labels, p.Status.PodIP = namespace, name, labelled(kv...).MatchLabels, ip
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 9090}}}}
	return p
}

func namespace(name string, kv ...string) *corev1.Namespace {
	n := &corev1.Namespace{}
	n.Name, n.Labels = name, labelled(append(kv, corev1.LabelMetadataName, name)...).MatchLabels
	return n
}

func pol(namespace, name string, selector *metav1.LabelSelector, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{}
	p.Namespace, p.Name, p.Spec.PodSelector, p.Spec.PolicyTypes = namespace, name, *selector, types
	return p
}

func at(proto corev1.Protocol, port any, end int32) networkingv1.NetworkPolicyPort {
	var out networkingv1.NetworkPolicyPort
	if proto != "" {
		out.Protocol = &proto
	}
	switch v := port.(type) {
	case int:
		out.Port = ptr(intstr.FromInt32(int32(v)))
	case string:
		out.Port = ptr(intstr.FromString(v))
	}
	if end > 0 {
		out.EndPort = &end
	}
	return out
}

const (
	in  = networkingv1.PolicyTypeIngress
	out = networkingv1.PolicyTypeEgress
)

type (
	peers = []networkingv1.NetworkPolicyPeer
	ports = []networkingv1.NetworkPolicyPort
)

// everything is a configuration with each feature in it.
func everything() Config {
	block := &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16", "10.2.3.0/25"}}
	web := pol("shop", "web", labelled("app", "web"), in)
	web.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{
		{From: peers{{PodSelector: labelled("app", "front")}, {IPBlock: block}}, Ports: ports{at("TCP", 80, 0), at("", 8000, 8100), at("UDP", nil, 0), at("SCTP", 7, 0)}},
		{From: peers{{NamespaceSelector: labelled("team", "ops"), PodSelector: labelled("role", "monitor")}}, Ports: ports{at("", "http", 0)}},
		{From: peers{{NamespaceSelector: labelled("team", "ops")}}},
	}
	deny := pol("shop", "deny-all", labelled(), in, out)
	leave := pol("shop", "leave", labelled("app", "web"), out)
	leave.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
		{To: peers{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}}}, Ports: ports{at("TCP", 443, 0)}},
		{Ports: ports{at("UDP", 53, 0), at("", "http", 0)}},
		{To: peers{{PodSelector: labelled("app", "front")}}, Ports: ports{at("", "http", 0), at("", 1, 0)}},
	}
	open := pol("open", "open", labelled())
	open.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
	nonsense := pol("shop", "nonsense", labelled("app", "db"), in, out)
	nonsense.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: ports{at("", "no-such-port", 0)}}, {From: peers{{PodSelector: labelled("nobody", "")}, {IPBlock: &networkingv1.IPBlock{CIDR: "fd00::/8"}}}}}
	return Config{
		Bridge:     "br-abcdef",
		Policies:   []*networkingv1.NetworkPolicy{web, deny, leave, open, nonsense},
		Namespaces: []*corev1.Namespace{namespace("shop"), namespace("ops", "team", "ops"), namespace("open")},
		Peers: []*corev1.Pod{
			peer("10.42.2.2", "shop", "front-1", "app", "front"), peer("10.42.2.3", "ops", "monitor", "role", "monitor"), peer("10.42.2.4", "ops", "shell"),
			peer("10.42.1.2", "shop", "earlier", "app", "front"), peer("", "shop", "starting", "app", "front"),
		},
		Pods: []Pod{
			here("10.42.1.2", "shop", "web-1", "app", "web"), here("10.42.1.3", "shop", "web-2", "app", "web"), here("10.42.1.4", "shop", "front-2", "app", "front"),
			here("10.42.1.5", "open", "door"), here("10.42.1.6", "free", "bird"), here("10.42.1.7", "shop", "db", "app", "db"),
		},
	}
}
