package link

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPortsAreReadAsTheyWereTold(t *testing.T) {
	ports := []PortInUse{{corev1.ProtocolTCP, 80, "nginx; or so"}, {corev1.ProtocolUDP, 53, ""}}
	c := corev1.NodeCondition{Type: PortsFree, Status: corev1.ConditionFalse, Reason: PortsInUse, Message: PortsMessage(ports)}
	if want := "in use on this board: tcp/80 by nginx, or so; udp/53"; c.Message != want {
		t.Errorf("message %q, want %q", c.Message, want)
	}
	node := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{c}}}
	ports[0].By = "nginx, or so"
	if got := BusyPorts(node); !reflect.DeepEqual(got, ports) {
		t.Errorf("got %v, want %v", got, ports)
	}
	node.Status.Conditions[0].Message = "nonsense"
	if got := BusyPorts(node); got != nil {
		t.Errorf("of nonsense: %v", got)
	}
}

func FuzzBusyPorts(f *testing.F) {
	f.Add("in use on this board: tcp/80 by nginx; udp/53")
	f.Fuzz(func(t *testing.T, message string) {
		node := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: PortsFree, Status: corev1.ConditionFalse, Message: message}}}}
		ports := BusyPorts(node)
		node.Status.Conditions[0].Message = PortsMessage(ports)
		if again := BusyPorts(node); len(ports) > 0 && len(again) == 0 {
			t.Errorf("%q: %v became nothing", message, ports)
		}
	})
}
