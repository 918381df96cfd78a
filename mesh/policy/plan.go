package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/mesh/nft"
)

// directions says in which a pod is isolated.
type directions struct{ in, out bool }

var (
	addresses = []nft.Type{nft.Addr}
	triple    = []nft.Type{nft.Addr, nft.Proto, nft.Service}

	ingress = nft.Set{Name: "ingress", Key: addresses, Data: []nft.Type{nft.Verdict}}
	egress  = nft.Set{Name: "egress", Key: addresses, Data: []nft.Type{nft.Verdict}}
	// self holds the isolated pods twice each: what one sends to itself through a Service passes.
	self = nft.Set{Name: "self", Key: []nft.Type{nft.Addr, nft.Addr}}
	// local holds all pods of this node: nothing else may send from behind the bridge, or an isolated pod
	// would get out under another name.
	local = nft.Set{Name: "local", Key: addresses}
)

const (
	filter = 0
	// accepted is the chain of what may leave its pod: it may have to get into one of this node too.
	accepted = "to-pod"
)

// planner turns a configuration into a table.
type planner struct {
	*table
	*directory
}

// plan is the table that a configuration asks for, and which of the node's pods it isolates. Before are
// those that were.
func plan(c Config, before map[netip.Addr]directions) (*table, map[netip.Addr]directions) {
	p := &planner{table: newTable(), directory: newDirectory(c)}
	isolated := map[netip.Addr]directions{}
	for _, l := range c.Pods {
		in, out := p.selecting(c, l)
		kept := before[l.IP]
		d := directions{len(in) > 0 || l.Forgotten && kept.in, len(out) > 0 || l.Forgotten && kept.out}
		if d.in {
			p.add(ingress, nft.Element{Key: nft.MakeKey(l.IP), Value: nft.Value{Goto: p.isolation("in", l.Namespace, in)}, Comment: l.Namespace + "/" + l.Name})
		}
		if d.out {
			p.add(egress, nft.Element{Key: nft.MakeKey(l.IP), Value: nft.Value{Goto: p.isolation("out", l.Namespace, out)}, Comment: l.Namespace + "/" + l.Name})
		}
		if d.in || d.out {
			isolated[l.IP] = d
			p.add(self, nft.Element{Key: nft.MakeKey(l.IP, l.IP)})
		}
	}
	if len(isolated) > 0 {
		p.base(c)
	}
	return p.table, isolated
}

func (p *planner) base(c Config) {
	p.set(ingress)
	p.set(egress)
	rules := []nft.Rule{
		nft.New().State("established", "related").Accept(),
		nft.New().In(self.Name, nft.Saddr, nft.Daddr).Accept(),
	}
	if len(p.elements[egress.Name]) > 0 {
		for _, l := range c.Pods {
			p.add(local, nft.Element{Key: nft.MakeKey(l.IP)})
		}
		rules = append(rules, nft.New().Iif(c.Bridge).NotIn(local.Name, nft.Saddr).Drop())
	}
	rules = append(rules, nft.New().Vmap(egress.Name, nft.Saddr), nft.New().Vmap(ingress.Name, nft.Daddr))
	p.chains["forward"] = chain{base: &nft.Base{Type: "filter", Hook: nft.Forward, Priority: filter}, rules: rules}
	p.chain(accepted, nft.New().Vmap(ingress.Name, nft.Daddr), nft.New().Accept())
}

// selecting are the policies that isolate a pod, by direction, in order.
func (p *planner) selecting(c Config, l Pod) (in, out []*networkingv1.NetworkPolicy) {
	if l.Forgotten {
		return nil, nil
	}
	for _, np := range c.Policies {
		if np.Namespace != l.Namespace || !selects(&np.Spec.PodSelector, l.Labels) {
			continue
		}
		d := affects(np)
		if d.in {
			in = append(in, np)
		}
		if d.out {
			out = append(out, np)
		}
	}
	byName := func(a, b *networkingv1.NetworkPolicy) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(in, byName)
	slices.SortFunc(out, byName)
	return in, out
}

// affects says which directions a policy isolates. The API fills in the types; without them a policy
// is about what comes in, and about what goes out if it says anything of that.
func affects(np *networkingv1.NetworkPolicy) directions {
	if len(np.Spec.PolicyTypes) == 0 {
		return directions{in: true, out: len(np.Spec.Egress) > 0}
	}
	return directions{
		in:  slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		out: slices.Contains(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress),
	}
}

func selects(s *metav1.LabelSelector, l map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labelSet(l))
}

// isolation is the chain for pods that just these policies isolate.
func (p *planner) isolation(way, namespace string, policies []*networkingv1.NetworkPolicy) string {
	var names []string
	for _, np := range policies {
		names = append(names, np.Name)
	}
	name := short(way+"/"+namespace, strings.Join(names, "+"))
	if _, ok := p.chains[name]; ok {
		return name
	}
	var rules []nft.Rule
	for _, np := range policies {
		rules = append(rules, nft.New().Jump(p.policy(way, np)))
	}
	p.chain(name, append(rules, nft.New().Drop())...)
	return name
}

// short is a name that the kernel and people can bear.
func short(place, name string) string {
	if full := place + "/" + name; len(full) <= 100 && !strings.Contains(name, "+") {
		return full
	}
	return place[:min(len(place), 80)] + "/" + strconv.Itoa(1+strings.Count(name, "+")) + "/" + digest(place+"/"+name)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// policy is the chain of what one policy lets through in one direction.
func (p *planner) policy(way string, np *networkingv1.NetworkPolicy) string {
	name := short("policy/"+way+"/"+np.Namespace, np.Name)
	if _, ok := p.chains[name]; ok {
		return name
	}
	d := direction{planner: p, out: way == "out", namespace: np.Namespace, selected: &np.Spec.PodSelector, chainName: name}
	if d.out {
		for i, r := range np.Spec.Egress {
			d.rule(i, r.To, r.Ports)
		}
	} else {
		for i, r := range np.Spec.Ingress {
			d.rule(i, r.From, r.Ports)
		}
	}
	p.chain(name, d.rules...)
	return name
}
