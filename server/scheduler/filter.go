package scheduler

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/nodes"
)

// refusal is why a node cannot take a pod. It is resolvable if it may help to
// take other pods away.
type refusal struct {
	reasons    []string
	resolvable bool
}

// never is a refusal that no preemption helps.
func never(reason string) *refusal { return &refusal{reasons: []string{reason}} }

// filter refuses a node for a pod, or returns nil.
type filter func(*candidate, *nodeState) *refusal

// filters in the order in which they are asked; the first refusal is the one
// that is told, as upstream does.
var filters = []filter{
	meant, schedulable, named, tolerated, selected, platform, freePorts, fit, reachableVolumes, spread, affine, allocated,
}

// refuse asks all filters about one node.
func refuse(p *candidate, n *nodeState) *refusal {
	for _, f := range filters {
		if r := f(p, n); r != nil {
			return r
		}
	}
	return nil
}

func tolerates(p *candidate, taint corev1.Taint) bool {
	return schedulinghelper.TolerationsTolerateTaint(klog.Background(), p.pod.Spec.Tolerations, &taint, true)
}

// meant refuses nodes that the pod's affinity does not name, if it names its nodes, as that of a DaemonSet's pod does. It comes
// first because upstream asks none of its filters about them.
func meant(p *candidate, n *nodeState) *refusal {
	if len(p.meantFor) > 0 && !p.meantFor[n.node.Name] {
		return never("node(s) didn't satisfy plugin(s) [NodeAffinity]")
	}
	return nil
}

func schedulable(p *candidate, n *nodeState) *refusal {
	if n.node.Spec.Unschedulable && !tolerates(p, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return never("node(s) were unschedulable")
	}
	return nil
}

func named(p *candidate, n *nodeState) *refusal {
	if want := p.pod.Spec.NodeName; want != "" && want != n.node.Name {
		return never("node(s) didn't match the requested node name")
	}
	return nil
}

// tolerated counts a node that has not yet said that it is ready as tainted,
// because the taint comes a moment after the node.
func tolerated(p *candidate, n *nodeState) *refusal {
	for _, taint := range n.node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(p, taint) {
			return never("node(s) had untolerated taint(s)")
		}
	}
	if !nodes.IsReady(n.node) && !tolerates(p, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}) {
		return never("node(s) had untolerated taint(s)")
	}
	return nil
}

func selected(p *candidate, n *nodeState) *refusal {
	if ok, _ := p.nodeAffinity.Match(n.node); !ok { // what cannot be parsed matches nothing
		return never("node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

// freePorts refuses a node where another pod, or the cluster itself, has one of the pod's host ports.
func freePorts(p *candidate, n *nodeState) *refusal {
	if len(p.hostPorts) == 0 {
		return nil
	}
	if len(ownPorts(p, n)) > 0 {
		return never("node(s) didn't have free ports for the requested pod ports")
	}
	for _, other := range n.pods {
		for _, used := range hostPorts(other.pod) {
			if slices.ContainsFunc(p.hostPorts, used.conflicts) {
				return &refusal{reasons: []string{"node(s) didn't have free ports for the requested pod ports"}, resolvable: true}
			}
		}
	}
	return nil
}

// hostPort is a port of the node that a pod takes.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func (a hostPort) conflicts(b hostPort) bool {
	anywhere := a.ip == "0.0.0.0" || b.ip == "0.0.0.0"
	return a.port == b.port && a.protocol == b.protocol && (anywhere || a.ip == b.ip)
}

func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	collect := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			h := hostPort{ip: port.HostIP, protocol: port.Protocol, port: port.HostPort}
			if h.ip == "" {
				h.ip = "0.0.0.0"
			}
			if h.protocol == "" {
				h.protocol = corev1.ProtocolTCP
			}
			out = append(out, h)
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			collect(c)
		}
	}
	return out
}

// ownPorts are those of the pod's host ports on which the cluster's own programs listen on a node.
func ownPorts(p *candidate, n *nodeState) (ports []int32) {
	for _, h := range p.hostPorts {
		if h.protocol == corev1.ProtocolTCP && slices.Contains(n.ownPorts, h.port) {
			ports = append(ports, h.port)
		}
	}
	return ports
}

// candidate is a pod with all that a decision reads of it, taken once.
type candidate struct {
	pod          *corev1.Pod
	requests     amounts
	hostPorts    []hostPort
	meantFor     map[string]bool // the nodes that its affinity names; none: any
	nodeAffinity nodeaffinity.RequiredNodeAffinity
	preferred    *nodeaffinity.PreferredSchedulingTerms
	platforms    map[string][]string // image -> platforms, of those that are known
	volumes      volumes
	spread       []spreadConstraint
	spreadSoft   []spreadConstraint
	affinity     podAffinity
	owner        *metav1.OwnerReference
	world        world // what is looked up about others; nil knows nothing

	// What a decision has counted over all nodes.
	seen       *neighbours
	counts     []spreadCount // of spread
	softCounts []spreadCount // of spreadSoft
}

// world answers what a decision must know beside nodes and pods.
type world interface {
	NamespaceLabels(namespace string) labels.Set
}

// newCandidate reads what a pod asks for from its spec alone.
func newCandidate(pod *corev1.Pod) *candidate {
	p := &candidate{
		pod:          pod,
		requests:     requestsOf(pod),
		hostPorts:    hostPorts(pod),
		meantFor:     nodesNamed(pod),
		nodeAffinity: nodeaffinity.GetRequiredNodeAffinity(pod),
		affinity:     affinityOf(pod),
		owner:        metav1.GetControllerOfNoCopy(pod),
	}
	p.spread, p.spreadSoft = constraintsOf(pod)
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		if terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution); err == nil {
			p.preferred = terms
		}
	}
	return p
}

// nodesNamed are the nodes that a pod's affinity names, if each of its terms names some.
func nodesNamed(pod *corev1.Pod) map[string]bool {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	out := map[string]bool{}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		var both [][]string
		for _, f := range t.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn {
				both = append(both, f.Values)
			}
		}
		if len(both) == 0 {
			return nil
		}
		for _, name := range both[0] {
			if !slices.ContainsFunc(both[1:], func(names []string) bool { return !slices.Contains(names, name) }) {
				out[name] = true
			}
		}
	}
	return out
}
