package mesh

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/mesh/ipam"
	"bramble.dev/mesh/services"
	"bramble.dev/mesh/vxlan"
)

// Options are fixed for a Mesh's life.
type Options struct {
	Instance string // six hexadecimal digits that tell this agent's links and tables from others'
	Board    string // tells this board from others: data folders of one name make the same Instance on all of them
	Dir      string // what must outlive the agent: address leases, pods' namespaces
	Logger   *slog.Logger
	// Announces is called when this node begins to announce an address of a load balancer; optional.
	Announces func(a netip.Addr, link string)
	// Unasked is called when a Service's healthCheckNodePort cannot be had on this node; optional.
	Unasked func(svc *corev1.Service, err error)
	recheck time.Duration // how often to look after what others did to the mesh; 0: 30 s
}

// Config is all that the node's network is made of. Its objects must not be changed afterwards: an
// object with another content is another pointer. Lists that keep their order make a Set cheap.
type Config struct {
	Node           string
	Zone           string     // of the node, for endpoints that prefer one; may be empty
	Site           string     // of the node; the tunnel leads to peers of the same site alone
	AcrossSites    bool       // lets it lead to others, unencrypted as it is
	DirectRoutes   bool       // to the pods of peers on the node's own link, without the tunnel
	NodeIP         netip.Addr // where other nodes reach this one
	PodCIDR        netip.Prefix
	ClusterCIDR    netip.Prefix
	ServiceCIDR    netip.Prefix
	VNI            uint32
	Port           uint16 // 0: 8472
	Peers          []Peer
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	// Policies is asked each time, also when a pod is attached: none is attached by older policies than
	// are known. While it says false nobody knows, and what is in force stays. nil: there are none.
	Policies      func() (Policies, bool)
	Domain        string         // of the cluster; "": cluster.local
	DNS           netip.Addr     // the cluster's DNS address, answered by every node itself
	Upstream      []string       // resolvers for all other names
	API           netip.AddrPort // where default/kubernetes leads: the agent's own proxy
	Cluster       string         // its id
	BalancerClass string         // of load balancers that are the cluster's own, as those without a class are
	Unannounced   bool           // this node announces no address of a load balancer
}

// Policies is what NetworkPolicies need.
type Policies struct {
	Pods       []*corev1.Pod                 // that this node is to run
	Policies   []*networkingv1.NetworkPolicy // that select some of them
	Peers      []*corev1.Pod                 // of all nodes, that some policy names
	Namespaces []*corev1.Namespace           // that some policy may name by its labels
}

// Peer is another node.
type Peer = vxlan.Peer

// HostPort is a port of the host that leads to a pod.
type HostPort = services.HostPort

// PodNetwork is a pod to attach.
type PodNetwork struct {
	UID       types.UID
	Namespace string
	Name      string
	HostPorts []HostPort
	Labels    map[string]string
	Ports     []corev1.ContainerPort // that policies may name
}

// Attachment is what a pod got.
type Attachment struct {
	NetNS string // the path of its network namespace
	IP    netip.Addr
}

func (c Config) withDefaults() Config {
	if c.Port == 0 {
		c.Port = 8472
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	if c.VNI == 0 {
		c.VNI = 1
	}
	return c
}

func (c Config) tunnel(mtu int, l vxlan.Link) vxlan.Config {
	return vxlan.Config{Node: c.Node, NodeIP: c.NodeIP, PodCIDR: c.PodCIDR, Gateway: ipam.Gateway(c.PodCIDR), VNI: c.VNI, Port: c.Port, MTU: mtu, Link: l, Site: c.Site, Open: c.AcrossSites, Peers: c.Peers}
}

// elsewhere names the peers that the tunnel does not lead to because of their site.
func (c Config) elsewhere() string {
	var out []string
	for _, p := range c.Peers {
		if p.Site != c.Site && !c.AcrossSites && p.Node != c.Node {
			out = append(out, p.Node)
		}
	}
	return strings.Join(out, " ")
}

// check names the field that makes a configuration impossible.
func (c Config) check() error {
	for _, f := range []struct {
		name string
		p    netip.Prefix
	}{{"pod CIDR", c.PodCIDR}, {"cluster CIDR", c.ClusterCIDR}, {"service CIDR", c.ServiceCIDR}} {
		if !f.p.IsValid() {
			return fmt.Errorf("the node's %s is missing", f.name)
		}
		if !f.p.Addr().Is4() {
			return fmt.Errorf("the node's %s is %s: only IPv4 is supported", f.name, f.p)
		}
	}
	switch {
	case c.PodCIDR.Bits() > 29:
		return fmt.Errorf("the node's pod CIDR %s has no room for pods", c.PodCIDR)
	case !c.ClusterCIDR.Contains(c.PodCIDR.Addr()):
		return fmt.Errorf("the node's pod CIDR %s is not part of the cluster CIDR %s", c.PodCIDR, c.ClusterCIDR)
	case c.ServiceCIDR.Overlaps(c.ClusterCIDR):
		return fmt.Errorf("service CIDR %s and cluster CIDR %s overlap", c.ServiceCIDR, c.ClusterCIDR)
	case !c.NodeIP.Is4():
		return fmt.Errorf("the node's address %q is not an IPv4 address", c.NodeIP)
	case c.VNI >= 1<<24:
		return fmt.Errorf("VXLAN identifier %d has more than 24 bits", c.VNI)
	}
	return nil
}
