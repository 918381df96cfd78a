package scheduler

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
)

func TestAdvice(t *testing.T) {
	taint := func(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
		}
	}
	cordon := func(n *corev1.Node) {
		n.Spec.Unschedulable = true
		taint(corev1.TaintNodeUnschedulable, "", corev1.TaintEffectNoSchedule)(n)
	}
	away := taint(corev1.TaintNodeUnreachable, "", corev1.TaintEffectNoSchedule)
	silent := func(n *corev1.Node) { n.Status.Conditions = nil }
	wants := func(labels map[string]string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = labels }
	}
	asks := func(name corev1.ResourceName, amount string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests[name] = resource.MustParse(amount) }
	}
	port := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 80}}
	}
	apiPort := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 6443, ContainerPort: 80}}
	}
	withServer := func(n *corev1.Node) { n.Status.Addresses = []corev1.NodeAddress{{Address: "192.0.2.1"}} }
	near := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"arm64", "arm"}}, {Key: "gpu", Operator: corev1.NodeSelectorOpExists}},
		}}}}}
	}
	even := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{}}}
	}
	many := []*corev1.Node{}
	for n := range 5 {
		many = append(many, node(fmt.Sprintf("pi%d", n), 4, 4, away))
	}
	for _, c := range []struct {
		name  string
		pod   *corev1.Pod
		nodes []*corev1.Node
		used  map[string]string // CPU, by node
		want  string
	}{
		{"too much for any node", pod("p", "8"), []*corev1.Node{node("pi", 4, 4)}, nil, "It asks for 8 of cpu; no node has more than 4 (pi)."},
		{"too much now", pod("p", "2"), []*corev1.Node{node("a", 4, 4), node("b", 4, 4)}, map[string]string{"a": "3500m", "b": "2500m"}, "It asks for 2 of cpu; no node has more than 1500m free (b)."},
		{"memory", pod("p", "1", asks(corev1.ResourceMemory, "8Gi")), []*corev1.Node{node("pi", 4, 4)}, nil, "It asks for 8Gi of memory; no node has more than 4Gi (pi)."},
		{"a device that nobody has", pod("p", "1", asks("bramble.dev/camera", "1")), []*corev1.Node{node("pi", 4, 4)}, nil, "It asks for 1 of bramble.dev/camera; no node has more than 0 (pi)."},
		{"away", pod("p", "1"), many, nil, "Of the nodes, pi0, pi1, pi2 and 2 more are away."},
		{"this and that", pod("p", "1"), []*corev1.Node{node("a", 4, 4, cordon), node("b", 4, 4, away), node("c", 4, 4, silent), node("d", 4, 4, taint("for", "db", corev1.TaintEffectNoExecute))}, nil,
			"Cordoned: a (kubectl uncordon opens a node again). Of the nodes, b is away; c is not ready; d is tainted for=db:NoExecute."},
		{"a label", pod("p", "1", wants(map[string]string{"disk": "ssd", corev1.LabelOSStable: "linux"})), []*corev1.Node{node("pi", 4, 4)}, nil,
			"No node has the label disk=ssd (kubectl label node NAME disk=ssd)."},
		{"a host port", pod("p", "1", port), []*corev1.Node{node("a", 4, 4)}, map[string]string{"a": "1"}, "Host ports are taken: 80 on a by default/on-a."},
		{"a port of the cluster's server", pod("p", "1", apiPort), []*corev1.Node{node("a", 4, 4, withServer)}, nil, "Host ports are taken: 6443 on a by the cluster's server."},
		{"an affinity", pod("p", "1", near), []*corev1.Node{node("pi", 4, 4)}, nil, "Its node affinity asks for kubernetes.io/arch in (arm64, arm), gpu exists."},
		{"a label to spread over", pod("p", "1", even), []*corev1.Node{node("pi", 4, 4)}, nil, "Its pods are to be spread over the label zone, which no node has."},
		{"nothing to add", pod("p", "1"), []*corev1.Node{node("pi", 4, 4)}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newState(link.ClusterConfig{Servers: []string{"https://192.0.2.1:6443"}, Brokers: []string{"mqtts://192.0.2.1:8883"}})
			for _, n := range c.nodes {
				s.setNode(n)
			}
			for n, cpu := range c.used {
				s.setPod(pod("on-"+n, cpu, on(n), port))
			}
			if got := advice(newCandidate(c.pod), s.listed); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// Rules about other pods: whom a pod waits for, and who keeps it away.
func TestAdviceOnNeighbours(t *testing.T) {
	labelled := func(app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
	}
	rule := func(app string) []corev1.PodAffinityTerm {
		return []corev1.PodAffinityTerm{{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: corev1.LabelHostname}}
	}
	near := func(app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: rule(app)}}
		}
	}
	far := func(app string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: rule(app)}}
		}
	}
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		want   string
	}{
		{"nobody to be near", pod("p", "1", near("db")), []*corev1.Pod{pod("x", "1", on("a"), labelled("web"))}, "It must be near pods with app=db, and there are none."},
		{"somebody to be near", pod("p", "1", near("db")), []*corev1.Pod{pod("x", "1", on("a"), labelled("db"))}, ""},
		{"the first of its kind", pod("p", "1", labelled("db"), near("db")), nil, ""},
		{"one replica too many", pod("p", "1", labelled("web"), far("web")), []*corev1.Pod{pod("x", "1", on("b"), labelled("web")), pod("y", "1", on("a"), labelled("web"))},
			"By anti-affinity it stays apart from default/x (on b), default/y (on a): it takes more nodes, or fewer replicas."},
		{"one that wants to be alone", pod("p", "1", labelled("web")), []*corev1.Pod{pod("x", "1", on("a"), far("web"))},
			"By anti-affinity it stays apart from default/x (on a): it takes more nodes, or fewer replicas."},
		{"others", pod("p", "1", labelled("web"), far("web")), []*corev1.Pod{pod("x", "1", on("a"), labelled("db"), far("db"))}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newState(link.ClusterConfig{})
			s.setNode(node("a", 4, 4))
			s.setNode(node("b", 4, 4))
			for _, other := range c.others {
				s.setPod(other)
			}
			if got := advice(newCandidate(c.pod), s.listed); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}
