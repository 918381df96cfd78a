package policy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"bramble.dev/mesh/nft"
)

type labelSet = labels.Set

// pod is a pod that policies may name.
type pod struct {
	ip        netip.Addr
	namespace string
	name      string
	labels    map[string]string
	ports     func(yield func(corev1.ContainerPort))
}

// directory finds the pods that selectors stand for.
type directory struct {
	pods       []pod
	namespaces map[string]map[string]string // labels
	groups     map[string][]pod
}

// newDirectory knows the peers that the server named and this node's own pods. Of those the node knows
// better: they are in it before the server has heard of their addresses, and while it is away.
func newDirectory(c Config) *directory {
	d := &directory{namespaces: map[string]map[string]string{}, groups: map[string][]pod{}}
	for _, n := range c.Namespaces {
		d.namespaces[n.Name] = n.Labels
	}
	type name struct{ namespace, name string }
	own, used := map[name]bool{}, map[netip.Addr]bool{}
	for _, l := range c.Pods {
		used[l.IP] = true
		if l.Forgotten {
			continue
		}
		own[name{l.Namespace, l.Name}] = true
		d.pods = append(d.pods, pod{l.IP, l.Namespace, l.Name, l.Labels, func(yield func(corev1.ContainerPort)) {
			for _, p := range l.Ports {
				yield(p)
			}
		}})
	}
	for _, p := range c.Peers {
		ip, err := netip.ParseAddr(p.Status.PodIP)
		// An address that a pod of this node has now is what the server knows of an earlier one.
		if err != nil || !ip.Is4() || own[name{p.Namespace, p.Name}] || used[ip] {
			continue
		}
		d.pods = append(d.pods, pod{ip, p.Namespace, p.Name, p.Labels, func(yield func(corev1.ContainerPort)) {
			for _, c := range p.Spec.Containers {
				for _, port := range c.Ports {
					yield(port)
				}
			}
		}})
	}
	slices.SortFunc(d.pods, func(a, b pod) int { return cmp.Or(a.ip.Compare(b.ip), cmp.Compare(a.name, b.name)) })
	return d
}

// group is what a peer of a policy in a namespace stands for.
type group struct {
	name string // the same for what stands for the same
	pods []pod
}

// group finds the pods of a peer. A selector that cannot be read stands for nobody.
func (d *directory) group(namespace string, peer networkingv1.NetworkPolicyPeer) group {
	all := labels.Everything()
	where, who, name := all, all, "in "+namespace
	var err error
	if peer.NamespaceSelector != nil {
		if where, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			where = labels.Nothing()
		}
		name = "where " + where.String()
	}
	if peer.PodSelector != nil {
		if who, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			who = labels.Nothing()
		}
	}
	if peer.PodSelector == nil && peer.NamespaceSelector == nil {
		who = labels.Nothing()
	}
	name += " who " + who.String()
	if who.String() == "" && !who.Empty() || where.String() == "" && !where.Empty() {
		return group{name: "nobody"}
	}
	pods, ok := d.groups[name]
	if !ok {
		in := map[string]bool{}
		for _, p := range d.pods {
			here, known := in[p.namespace]
			if !known {
				here = p.namespace == namespace
				if peer.NamespaceSelector != nil {
					here = where.Matches(labelSet(d.namespaces[p.namespace]))
				}
				in[p.namespace] = here
			}
			if here && who.Matches(labelSet(p.labels)) {
				pods = append(pods, p)
			}
		}
		d.groups[name] = pods
	}
	return group{name, pods}
}

// addresses is the set of a group's addresses.
func (p *planner) addresses(g group) string {
	s := nft.Set{Name: "pods/" + digest(g.name), Key: addresses}
	if _, ok := p.sets[s.Name]; ok {
		return s.Name
	}
	p.set(s)
	for _, x := range g.pods {
		p.add(s, nft.Element{Key: nft.MakeKey(x.ip), Comment: x.namespace + "/" + x.name})
	}
	return s.Name
}

// ports is the set of the places where a group's pods have a port of a name.
func (p *planner) ports(g group, port string, proto uint8) string {
	s := nft.Set{Name: "ports/" + digest(g.name+" at "+port+" "+nft.ProtoName(proto)), Key: triple}
	if _, ok := p.sets[s.Name]; ok {
		return s.Name
	}
	p.set(s)
	for _, x := range g.pods {
		x.ports(func(c corev1.ContainerPort) {
			of := c.Protocol
			if is, ok := protocol(&of); ok && is == proto && c.Name == port && c.ContainerPort > 0 && c.ContainerPort < 1<<16 {
				p.add(s, nft.Element{Key: nft.MakeKey(x.ip, proto, uint16(c.ContainerPort)), Comment: x.namespace + "/" + x.name})
			}
		})
	}
	return s.Name
}
