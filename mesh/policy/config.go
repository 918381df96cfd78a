package policy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Config is all that the table is made of. Its objects must not be changed afterwards: an object with
// another content is another pointer.
type Config struct {
	Bridge     string // the link that this node's pods hang on
	Policies   []*networkingv1.NetworkPolicy
	Namespaces []*corev1.Namespace // that policies may name by their labels
	Peers      []*corev1.Pod       // that policies may name, of all nodes, with their addresses
	Pods       []Pod               // of this node
}

// Pod is a pod of this node that is attached or about to be.
type Pod struct {
	IP        netip.Addr
	Namespace string
	Name      string
	Labels    map[string]string
	Ports     []corev1.ContainerPort // those with a name count
	Forgotten bool                   // by the server: it is being stopped
}

func (p Pod) equal(o Pod) bool {
	if p.IP != o.IP || p.Namespace != o.Namespace || p.Name != o.Name || p.Forgotten != o.Forgotten || len(p.Labels) != len(o.Labels) {
		return false
	}
	for k, v := range p.Labels {
		if w, ok := o.Labels[k]; !ok || v != w {
			return false
		}
	}
	return slices.Equal(p.Ports, o.Ports)
}

func (c Config) equal(o Config) bool {
	return c.Bridge == o.Bridge && slices.Equal(c.Policies, o.Policies) && slices.Equal(c.Namespaces, o.Namespaces) &&
		slices.Equal(c.Peers, o.Peers) && slices.EqualFunc(c.Pods, o.Pods, Pod.equal)
}

// clone keeps the lists as they are now.
func (c Config) clone() Config {
	c.Policies, c.Namespaces, c.Peers, c.Pods = slices.Clone(c.Policies), slices.Clone(c.Namespaces), slices.Clone(c.Peers), slices.Clone(c.Pods)
	return c
}
