package loadbalancer

import (
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// fronts stands in the queue for what all Services want outside the cluster at once: no Service has this name.
var fronts = loop.Key{Name: "fronts"}

// loss is what an event said last: of which Service, for which reason.
type loss struct {
	service types.UID
	reason  string
}

// losses are what Services are told, each with who has it instead.
var losses = []struct {
	ofNodePort      bool
	reason, message string
}{
	{true, "NodePortInUse", "Not reached at its node port: %s; choose another nodePort"},
	{false, "ExternalIPInUse", "Not reached at its externalIPs: %s; choose another address or another port"},
}

// frontsOfService is fronts when a change may give or take a port of an address outside.
func frontsOfService(x cache.Change[corev1.Service]) []loop.Key {
	before, now := outer(x.Old), outer(x.New)
	if !before && !now || before && now && equality.Semantic.DeepEqual(x.Old.Spec, x.New.Spec) && equality.Semantic.DeepEqual(x.Old.Status.LoadBalancer, x.New.Status.LoadBalancer) {
		return nil
	}
	return []loop.Key{fronts}
}

// outer says whether a Service wants to be reached from outside.
func outer(s *corev1.Service) bool {
	return s != nil && (s.Spec.Type == corev1.ServiceTypeLoadBalancer || len(s.Spec.ExternalIPs) > 0 || len(nodePortsOf(s)) > 0)
}

// tell says to the readers of each Service which of the ports that it wants outside is another's. The nodes act by the same rule.
func (c *controller) tell() {
	nodes := map[string]bool{}
	for _, n := range c.Nodes.List("", nil) {
		for _, a := range n.Status.Addresses {
			if _, err := netip.ParseAddr(a.Address); err == nil {
				nodes[a.Address] = true
			}
		}
	}
	f := link.NewFronts(c.Services.List("", nil), func(a string) bool { return nodes[a] })
	told := map[loss]string{}
	for _, s := range f.Losers() {
		for _, kind := range losses {
			var texts []string
			for _, l := range f.Losses(s) {
				if (l.Address == "") == kind.ofNodePort {
					texts = append(texts, l.String())
				}
			}
			of, text := loss{s.UID, kind.reason}, strings.Join(texts, "; ")
			if text == "" {
				continue
			}
			if told[of] = text; text != c.lost[of] {
				c.Events.Eventf(s, corev1.EventTypeWarning, kind.reason, kind.message, text)
			}
		}
	}
	c.lost = told
}
