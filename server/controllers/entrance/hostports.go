package entrance

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/pods"
)

// Port is a port at a node's own addresses.
type Port struct {
	Protocol corev1.Protocol
	Number   int32
}

func (p Port) String() string {
	return strings.ToLower(string(p.Protocol)) + "/" + fmt.Sprint(p.Number)
}

// HostPorts are those that a pod has of its node; none before it has a node, and once it is over. A pod that has one wins
// over Services and Ingresses: the scheduler put it there.
func HostPorts(p *corev1.Pod) (ports []Port) {
	if p.Spec.NodeName == "" || pods.IsFinished(p) {
		return nil
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for _, cp := range list[i].Ports {
				if ip, err := netip.ParseAddr(cp.HostIP); err == nil && ip.IsLoopback() {
					continue // nobody outside reaches it
				}
				if cp.HostPort > 0 {
					ports = append(ports, Port{cp.Protocol, cp.HostPort})
				}
			}
		}
	}
	return ports
}

// HostPortsChanged says whether a change of a pod gave or took ports of a node.
func HostPortsChanged(x cache.Change[corev1.Pod]) bool {
	before, now := 0, 0
	if x.Old != nil {
		before = len(HostPorts(x.Old))
	}
	if x.New != nil {
		now = len(HostPorts(x.New))
	}
	return before != now // what a pod asks for never changes, only whether it has it
}
