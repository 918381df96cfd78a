package nodelifecycle

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/nodes"
)

// event is one of a node.
type event struct{ kind, reason, message string }

// words are the kubelet's for a condition that became true, and for one that became false.
var words = map[corev1.NodeConditionType][2]string{
	corev1.NodeReady:          {"NodeReady", "NodeNotReady"},
	corev1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
	corev1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
	corev1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
}

// news is what people are told of a node's change, as a kubelet tells it of itself. Here it is told by the server, because an
// agent does not read what others write of its node. That a node is away is told where it is found out.
func news(old, now *corev1.Node) (out []event) {
	status := func(reason string) {
		out = append(out, event{corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", now.Name, reason)})
	}
	if before, after := old.Status.NodeInfo.BootID, now.Status.NodeInfo.BootID; before != "" && after != "" && before != after {
		out = append(out, event{corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", now.Name, after)})
	}
	for _, t := range watched {
		before, after := nodes.Condition(old, t), nodes.Condition(now, t)
		// What was unknown and is well again is told once, by Ready.
		if before == nil || after == nil || before.Status == after.Status || t != corev1.NodeReady && before.Status == corev1.ConditionUnknown {
			continue
		}
		switch after.Status {
		case corev1.ConditionTrue:
			status(words[t][0])
		case corev1.ConditionFalse:
			status(words[t][1])
		}
	}
	switch {
	case now.Spec.Unschedulable && !old.Spec.Unschedulable:
		status("NodeNotSchedulable")
	case old.Spec.Unschedulable && !now.Spec.Unschedulable:
		status("NodeSchedulable")
	}
	return out
}

// tell records the news. Nodes that are seen for the first time are none: the server has started.
func (c *Controller) tell(change cache.Change[corev1.Node]) {
	if change.Old == nil || change.New == nil || change.Old.UID != change.New.UID {
		return
	}
	for _, e := range news(change.Old, change.New) {
		c.Events.Event(reference(change.New), e.kind, e.reason, e.message)
	}
}

func reference(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}
