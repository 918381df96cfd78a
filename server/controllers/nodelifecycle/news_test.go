package nodelifecycle

import (
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
)

func TestNews(t *testing.T) {
	node := func(change ...func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pi", UID: "u"}}
		n.Status.NodeInfo.BootID = "one"
		for _, c := range watched {
			status := corev1.ConditionFalse
			if c == corev1.NodeReady {
				status = corev1.ConditionTrue
			}
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: status})
		}
		for _, f := range change {
			f(n)
		}
		return n
	}
	set := func(status corev1.ConditionStatus, of ...corev1.NodeConditionType) func(*corev1.Node) {
		return func(n *corev1.Node) {
			for i := range n.Status.Conditions {
				for _, t := range of {
					if n.Status.Conditions[i].Type == t {
						n.Status.Conditions[i].Status = status
					}
				}
			}
		}
	}
	away := set(corev1.ConditionUnknown, watched...)
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	rebooted := func(n *corev1.Node) { n.Status.NodeInfo.BootID = "two" }
	normal := func(reason string) event {
		return event{corev1.EventTypeNormal, reason, "Node pi status is now: " + reason}
	}
	for name, c := range map[string]struct {
		old, now *corev1.Node
		want     []event
	}{
		"a heartbeat": {node(), node(), nil},
		"away":        {node(), node(away), nil},
		"back":        {node(away), node(), []event{normal("NodeReady")}},
		"back after a power cut": {node(away), node(rebooted), []event{
			{corev1.EventTypeWarning, "Rebooted", "Node pi has been rebooted, boot id: two"}, normal("NodeReady")}},
		"it says itself that it is not ready": {node(), node(set(corev1.ConditionFalse, corev1.NodeReady)), []event{normal("NodeNotReady")}},
		"its disk is full":                    {node(), node(set(corev1.ConditionTrue, corev1.NodeDiskPressure)), []event{normal("NodeHasDiskPressure")}},
		"there is room again":                 {node(set(corev1.ConditionTrue, corev1.NodeDiskPressure)), node(), []event{normal("NodeHasNoDiskPressure")}},
		"little memory, many processes": {node(), node(set(corev1.ConditionTrue, corev1.NodeMemoryPressure, corev1.NodePIDPressure)), []event{
			normal("NodeHasInsufficientMemory"), normal("NodeHasInsufficientPID")}},
		"cordoned": {node(), node(cordoned), []event{normal("NodeNotSchedulable")}},
		"opened":   {node(cordoned), node(), []event{normal("NodeSchedulable")}},
	} {
		if got := news(c.old, c.now); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
