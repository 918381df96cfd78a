package policy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"bramble.dev/mesh/nft/nfttest"
)

// packet begins a connection.
type packet struct {
	from, to string
	proto    corev1.Protocol
	port     int
}

// passes says what the policies say, word by word, for one packet.
func passes(c Config, p packet) bool {
	if p.from == p.to {
		return true
	}
	isolated, allowed := judge(c, p, p.from, true)
	if isolated && !allowed {
		return false
	}
	isolated, allowed = judge(c, p, p.to, false)
	return !isolated || allowed
}

func judge(c Config, p packet, subject string, out bool) (isolated, allowed bool) {
	for _, l := range c.Pods {
		if l.IP.String() != subject {
			continue
		}
		for _, np := range c.Policies {
			types := np.Spec.PolicyTypes
			if len(types) == 0 {
				types = []networkingv1.PolicyType{in}
				if len(np.Spec.Egress) > 0 {
					types = append(types, networkingv1.PolicyTypeEgress)
				}
			}
			want := in
			if out {
				want = networkingv1.PolicyTypeEgress
			}
			if np.Namespace != l.Namespace || !matches(&np.Spec.PodSelector, l.Labels) || !slices.Contains(types, want) {
				continue
			}
			isolated = true
			if out {
				for _, r := range np.Spec.Egress {
					allowed = allowed || peerAllowed(c, np.Namespace, r.To, p.to) && portAllowed(c, r.To, r.Ports, p, true)
				}
			} else {
				for _, r := range np.Spec.Ingress {
					allowed = allowed || peerAllowed(c, np.Namespace, r.From, p.from) && portAllowed(c, r.From, r.Ports, p, false)
				}
			}
		}
	}
	return isolated, allowed
}

func matches(s *metav1.LabelSelector, l map[string]string) bool {
	for k, v := range s.MatchLabels {
		if have, ok := l[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		v, has := l[e.Key]
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !has || !slices.Contains(e.Values, v) {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if has && slices.Contains(e.Values, v) {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !has {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if has {
				return false
			}
		}
	}
	return true
}

func podAt(c Config, ip string) (namespace string, labels map[string]string, ports []corev1.ContainerPort, ok bool) {
	for _, l := range c.Pods {
		if l.IP.String() == ip {
			return l.Namespace, l.Labels, l.Ports, true
		}
	}
	for _, p := range c.Peers {
		if p.Status.PodIP == ip {
			return p.Namespace, p.Labels, p.Spec.Containers[0].Ports, true
		}
	}
	return "", nil, nil, false
}

func peerAllowed(c Config, namespace string, peers []networkingv1.NetworkPolicyPeer, ip string) bool {
	if len(peers) == 0 {
		return true
	}
	for _, p := range peers {
		if p.IPBlock != nil {
			a := netip.MustParseAddr(ip)
			ok := netip.MustParsePrefix(p.IPBlock.CIDR).Contains(a)
			for _, e := range p.IPBlock.Except {
				ok = ok && !netip.MustParsePrefix(e).Contains(a)
			}
			if ok {
				return true
			}
			continue
		}
		ns, labels, _, ok := podAt(c, ip)
		if !ok {
			continue
		}
		if p.NamespaceSelector == nil && ns != namespace || p.PodSelector != nil && !matches(p.PodSelector, labels) {
			continue
		}
		if p.NamespaceSelector != nil {
			for _, n := range c.Namespaces {
				if n.Name == ns && matches(p.NamespaceSelector, n.Labels) {
					return true
				}
			}
			continue
		}
		return true
	}
	return false
}

func portAllowed(c Config, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, p packet, out bool) bool {
	if len(ports) == 0 {
		return true
	}
	for _, port := range ports {
		proto := corev1.ProtocolTCP
		if port.Protocol != nil {
			proto = *port.Protocol
		}
		switch {
		case proto != p.proto:
		case port.Port == nil:
			return true
		case port.Port.StrVal != "":
			_, _, have, _ := podAt(c, p.to)
			for _, h := range have {
				of := h.Protocol
				if of == "" {
					of = corev1.ProtocolTCP
				}
				if h.Name == port.Port.StrVal && of == proto && int(h.ContainerPort) == p.port {
					return true
				}
			}
		case port.EndPort == nil && port.Port.IntValue() == p.port, port.EndPort != nil && port.Port.IntValue() <= p.port && p.port <= int(*port.EndPort):
			return true
		}
	}
	return false
}

func drawSelector(t *rapid.T, name string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch rapid.IntRange(0, 4).Draw(t, name) {
	case 1, 2:
		s.MatchLabels = map[string]string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"): rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value")}
	case 3:
		e := metav1.LabelSelectorRequirement{Key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(t, "operator")}
		if e.Operator == "In" || e.Operator == "NotIn" {
			e.Values = []string{rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value")}
		}
		s.MatchExpressions = []metav1.LabelSelectorRequirement{e}
	}
	return s
}

func drawPeers(t *rapid.T, named bool) (out []networkingv1.NetworkPolicyPeer) {
	for range rapid.IntRange(0, 3).Draw(t, "peers") {
		var p networkingv1.NetworkPolicyPeer
		switch kind := rapid.IntRange(0, 3).Draw(t, "kind"); {
		case kind == 0 && !named: // a named port of a range of addresses is nobody's
			p.IPBlock = &networkingv1.IPBlock{CIDR: rapid.SampledFrom([]string{"0.0.0.0/0", "10.42.0.0/16", "10.42.1.0/30", "192.0.2.0/24"}).Draw(t, "block")}
			if rapid.Bool().Draw(t, "except") {
				p.IPBlock.Except = []string{rapid.SampledFrom([]string{"10.42.1.2/31", "10.42.2.0/25", "192.0.2.1/32"}).Draw(t, "but")}
				for i := range rapid.SampledFrom([]int{0, 0, 0, 20, 100}).Draw(t, "more") {
					p.IPBlock.Except = append(p.IPBlock.Except, fmt.Sprintf("10.42.%d.4/31", 100+i))
				}
			}
		case kind < 2:
			p.PodSelector = drawSelector(t, "pods")
		case kind == 2:
			p.NamespaceSelector = drawSelector(t, "namespaces")
		default:
			p.PodSelector, p.NamespaceSelector = drawSelector(t, "pods"), drawSelector(t, "namespaces")
		}
		out = append(out, p)
	}
	return out
}

func drawPorts(t *rapid.T) (out []networkingv1.NetworkPolicyPort, named bool) {
	for range rapid.IntRange(0, 3).Draw(t, "ports") {
		proto := rapid.SampledFrom([]corev1.Protocol{"", "TCP", "UDP", "SCTP"}).Draw(t, "protocol")
		switch rapid.IntRange(0, 3).Draw(t, "port") {
		case 0:
			out = append(out, at(proto, nil, 0))
		case 1:
			out = append(out, at(proto, rapid.SampledFrom([]string{"http", "dns", "none"}).Draw(t, "name"), 0))
			named = true
		case 2:
			out = append(out, at(proto, 80, 0))
		default:
			out = append(out, at(proto, 50, 60))
		}
	}
	return out, named
}

func drawPolicy(t *rapid.T, i int) *networkingv1.NetworkPolicy {
	p := pol(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "namespace"), fmt.Sprintf("p%d", i), drawSelector(t, "selected"))
	p.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{nil, {in}, {out}, {in, out}}).Draw(t, "types")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		ports, _ := drawPorts(t)
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: drawPeers(t, false), Ports: ports})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		ports, named := drawPorts(t)
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: drawPeers(t, named), Ports: ports})
	}
	return p
}

func drawLabels(t *rapid.T) (kv []string) {
	for _, k := range []string{"a", "b"} {
		if v := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, k); v != "" {
			kv = append(kv, k, v)
		}
	}
	return kv
}

func drawConfig(t *rapid.T) Config {
	c := Config{Bridge: "br"}
	for i := range rapid.IntRange(0, 4).Draw(t, "policies") {
		c.Policies = append(c.Policies, drawPolicy(t, i))
	}
	for _, n := range []string{"x", "y", "z"} {
		c.Namespaces = append(c.Namespaces, namespace(n, drawLabels(t)...))
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "pods") {
		ip := fmt.Sprintf("10.42.1.%d", 2+i)
		ns := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "of")
		c.Pods = append(c.Pods, here(ip, ns, fmt.Sprintf("l%d", i), drawLabels(t)...))
		if rapid.Bool().Draw(t, "known to the server") {
			c.Peers = append(c.Peers, peer(ip, ns, fmt.Sprintf("l%d", i), drawLabels(t)...))
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "others") {
		c.Peers = append(c.Peers, peer(fmt.Sprintf("10.42.2.%d", 2+i), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "of"), fmt.Sprintf("r%d", i), drawLabels(t)...))
	}
	return c
}

// TestWhatPasses compares the table with the words of the policies, packet by packet, and a table that
// was reached by changes with one that was loaded.
func TestWhatPasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := nfttest.New()
		f := Open(k, Options{Table: tableName})
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			c := drawConfig(t)
			if err := f.Set(context.Background(), c); err != nil {
				t.Fatal(err)
			}
			fresh := nfttest.New()
			if err := Open(fresh, Options{Table: tableName}).Set(context.Background(), c); err != nil {
				t.Fatal(err)
			}
			if got, want := k.Text(tableName), fresh.Text(tableName); got != want {
				t.Fatalf("by changes (+), loaded (-):\n%s", nfttest.Differences(got, want))
			}
			r := read(k.Text(tableName))
			ips := []string{"192.0.2.1", "192.0.2.9", "10.42.2.200"}
			for _, p := range c.Pods {
				ips = append(ips, p.IP.String())
			}
			for _, p := range c.Peers {
				if strings.HasPrefix(p.Name, "r") {
					ips = append(ips, p.Status.PodIP)
				}
			}
			for _, from := range ips {
				for _, to := range ips {
					for _, proto := range []corev1.Protocol{"TCP", "UDP", "SCTP"} {
						for _, port := range []int{80, 55, 53, 8080, 9090} {
							p := packet{from, to, proto, port}
							if got, want := r.passes(p), passes(c, p); got != want {
								t.Fatalf("%+v passes %v, want %v; table:\n%s", p, got, want, k.Text(tableName))
							}
						}
					}
				}
			}
		}
	})
}

// rules is a table that was read from its text.
type rules struct {
	chains   map[string][]string
	elements map[string]map[string]string // set -> key -> verdict
}

func read(text string) rules {
	r := rules{map[string][]string{}, map[string]map[string]string{}}
	name, inSet, inElements := "", false, false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(line, "table") || strings.HasPrefix(line, "type"):
		case line == "}":
			if inElements {
				inElements = false
			} else {
				inSet = false
			}
		case words[0] == "set" || words[0] == "map":
			name, inSet = words[1], true
			r.elements[name] = map[string]string{}
		case words[0] == "chain":
			name = words[1]
			r.chains[name] = nil
		case strings.HasPrefix(line, "elements"):
			inElements = true
		case inSet:
			key, verdict, _ := strings.Cut(line, " : ")
			key, _, _ = strings.Cut(key, " comment")
			r.elements[name][key] = verdict
		default:
			r.chains[name] = append(r.chains[name], line)
		}
	}
	return r
}

func (r rules) passes(p packet) bool { return r.chain("forward", p) != "drop" }

// chain runs a packet through a chain; the verdict is "" when none was reached.
func (r rules) chain(name string, p packet) string {
	for _, rule := range r.chains[name] {
		if v, final := r.rule(strings.Fields(rule), p); final {
			return v
		}
	}
	return ""
}

func (r rules) rule(words []string, p packet) (verdict string, final bool) {
	field := map[string]string{"ip saddr": p.from, "ip daddr": p.to, "meta l4proto": strings.ToLower(string(p.proto)), "th dport": fmt.Sprint(p.port)}
	for len(words) > 0 {
		switch words[0] {
		case "ct": // it begins a connection
			return "", false
		case "accept", "drop":
			return words[0], true
		case "return":
			return "", true
		case "jump":
			v := r.chain(words[1], p)
			return v, v != ""
		case "goto":
			return r.chain(words[1], p), true
		case "iifname":
			if !strings.HasPrefix(p.from, "10.42.1.") { // this node's pods
				return "", false
			}
			words = words[2:]
		case "tcp", "udp", "sctp":
			first, last, isRange := strings.Cut(words[2], "-")
			if !isRange {
				last = first
			}
			var a, b int
			fmt.Sscan(first, &a)
			fmt.Sscan(last, &b)
			if words[0] != field["meta l4proto"] || p.port < a || p.port > b {
				return "", false
			}
			words = words[3:]
		default:
			key := field[words[0]+" "+words[1]]
			words = words[2:]
			for words[0] == "." {
				key += " . " + field[words[1]+" "+words[2]]
				words = words[3:]
			}
			if words[0] == "vmap" {
				chain, ok := r.elements[words[1][1:]][key]
				if !ok {
					return "", false
				}
				return r.chain(strings.TrimPrefix(chain, "goto "), p), true
			}
			not := words[0] == "!="
			if not {
				words = words[1:]
			}
			if r.is(key, words[0]) == not {
				return "", false
			}
			words = words[1:]
		}
	}
	return "", false
}

func (r rules) is(key, value string) bool {
	if set, ok := strings.CutPrefix(value, "@"); ok {
		_, in := r.elements[set][key]
		return in
	}
	if prefix, err := netip.ParsePrefix(value); err == nil {
		return prefix.Contains(netip.MustParseAddr(key))
	}
	return key == value
}
