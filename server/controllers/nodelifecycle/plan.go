package nodelifecycle

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/nodes"
)

// grace is how long a node may be away before it is called unreachable: a
// change of Wi-Fi channel or a restart of the agent is no news.
const grace = 40 * time.Second

// startGrace is how long a node may take to report for the first time.
const startGrace = time.Minute

// watched conditions become unknown together when the node is away.
var watched = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// observed is what is known of one node.
type observed struct {
	node   *corev1.Node
	online bool
	since  time.Time // of online's present value
	now    time.Time
}

// missing says whether the node is to be called unreachable now, or when.
func (o observed) missing() (now bool, in time.Duration) {
	if o.online {
		return false, 0
	}
	patience := grace
	if nodes.Condition(o.node, corev1.NodeReady) == nil {
		patience = startGrace
	}
	since := o.since
	if created := o.node.CreationTimestamp.Time; created.After(since) {
		since = created
	}
	left := since.Add(patience).Sub(o.now)
	return left <= 0, left
}

// unknown gives the conditions of a node that is away. It is nil if they say so already.
func unknown(node *corev1.Node, now time.Time) []corev1.NodeCondition {
	out := slices.Clone(node.Status.Conditions)
	changed := false
	for _, t := range watched {
		at := slices.IndexFunc(out, func(c corev1.NodeCondition) bool { return c.Type == t })
		if at < 0 {
			out = append(out, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		} else if c := &out[at]; c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return out
}

// ours are the taints that follow from a node's state and are kept nowhere else.
var ours = []corev1.Taint{
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule},
}

// wants says whether the node's state calls for one of our taints.
func wants(node *corev1.Node, t corev1.Taint) bool {
	is := func(c corev1.NodeConditionType, s corev1.ConditionStatus) bool {
		found := nodes.Condition(node, c)
		return found != nil && found.Status == s
	}
	switch t.Key {
	case corev1.TaintNodeNotReady:
		return is(corev1.NodeReady, corev1.ConditionFalse)
	case corev1.TaintNodeUnreachable:
		return is(corev1.NodeReady, corev1.ConditionUnknown)
	case corev1.TaintNodeUnschedulable:
		return node.Spec.Unschedulable
	case corev1.TaintNodeMemoryPressure:
		return is(corev1.NodeMemoryPressure, corev1.ConditionTrue)
	case corev1.TaintNodeDiskPressure:
		return is(corev1.NodeDiskPressure, corev1.ConditionTrue)
	case corev1.TaintNodePIDPressure:
		return is(corev1.NodePIDPressure, corev1.ConditionTrue)
	}
	return is(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)
}

// taints gives the taints that a node should have, and whether that is a change.
func taints(node *corev1.Node, now time.Time) (wanted []corev1.Taint, changed bool) {
	wanted = slices.Clone(node.Spec.Taints)
	for _, t := range ours {
		at := slices.IndexFunc(wanted, func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect })
		switch want := wants(node, t); {
		case want && at < 0:
			added := metav1.NewTime(now)
			t.TimeAdded = &added
			wanted = append(wanted, t)
			changed = true
		case !want && at >= 0:
			wanted = slices.Delete(wanted, at, at+1)
			changed = true
		}
	}
	return wanted, changed
}

// allocatable gives what of a node pods may ask for, and whether that is a change: of a resource that people have put into
// its capacity (one of a domain of its own, "example.com/dongle") all that is there.
func allocatable(node *corev1.Node) (wanted corev1.ResourceList, changed bool) {
	wanted = node.Status.Allocatable.DeepCopy()
	for name, quantity := range node.Status.Capacity {
		if have, there := wanted[name]; extended(name) && (!there || have.Cmp(quantity) != 0) {
			if wanted == nil {
				wanted = corev1.ResourceList{}
			}
			wanted[name] = quantity
			changed = true
		}
	}
	for name := range node.Status.Allocatable {
		if _, there := node.Status.Capacity[name]; extended(name) && !there {
			delete(wanted, name)
			changed = true
		}
	}
	return wanted, changed
}

func extended(name corev1.ResourceName) bool { return strings.Contains(string(name), "/") }
