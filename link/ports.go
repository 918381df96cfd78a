package link

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Ports of a board's own addresses that Services and Ingresses want.
const (
	// PortsFree is the condition of a Node that says whether its board's own programs have any of them.
	PortsFree corev1.NodeConditionType = "PortsFree"
	// PortsInUse is its reason when they have.
	PortsInUse = "PortsInUse"
	// LoadBalancerClass may be named by a Service that only Bramble is to serve. One that names none is Bramble's too.
	LoadBalancerClass = "bramble.dev/load-balancer"
)

// PortInUse is one that a program has, or, where an Ingress wants it, a Service.
type PortInUse struct {
	Protocol corev1.Protocol
	Port     uint16
	By       string
}

func (p PortInUse) String() string {
	s := strings.ToLower(string(p.Protocol)) + "/" + strconv.Itoa(int(p.Port))
	if p.By != "" {
		s += " by " + p.By
	}
	return s
}

const service = "Service "

// OfService is who has a port that a Service has.
func OfService(namespace, name string) string { return service + namespace + "/" + name }

// ByService says whether it is a Service that has the port.
func (p PortInUse) ByService() bool { return strings.HasPrefix(p.By, service) }

const inUse = "in use on this board: "

// PortsMessage tells people, and BusyPorts, which ports are in use.
func PortsMessage(ports []PortInUse) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		p.By = strings.ReplaceAll(p.By, ";", ",")
		texts[i] = p.String()
	}
	slices.Sort(texts)
	return inUse + strings.Join(slices.Compact(texts), "; ")
}

// BusyPorts reads a Node's condition.
func BusyPorts(node *corev1.Node) (ports []PortInUse) {
	for _, c := range node.Status.Conditions {
		if c.Type != PortsFree || c.Status != corev1.ConditionFalse {
			continue
		}
		list, ok := strings.CutPrefix(c.Message, inUse)
		if !ok {
			continue
		}
		for _, text := range strings.Split(list, "; ") {
			if p, err := parsePort(text); err == nil {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

func parsePort(text string) (p PortInUse, err error) {
	what, by, _ := strings.Cut(text, " by ")
	proto, number, _ := strings.Cut(what, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return p, fmt.Errorf("link: port %q: %w", text, err)
	}
	return PortInUse{Protocol: corev1.Protocol(strings.ToUpper(proto)), Port: uint16(n), By: by}, nil
}
