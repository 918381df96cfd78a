package agent

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
	"bramble.dev/agent/hostports"
	"bramble.dev/link"
	"bramble.dev/mesh"
	"bramble.dev/mesh/ingress"
)

// setIngress has the ingress process serve what the server wants here. A Service that was told this node's address for a port
// keeps it: whoever had it first is in the Service's status.
func (n *network) setIngress(ctx context.Context, c mesh.Config) error {
	if n.ingress == nil {
		return nil
	}
	conf := ingress.Config{Services: c.Services, EndpointSlices: c.EndpointSlices, Secret: n.catalog.Secret}
	if node := n.catalog.Node(); node != nil && link.ServesIngresses(node) {
		conf.Ingresses = n.catalog.Ingresses()
	}
	except := map[int]string{}
	for _, s := range c.Services {
		if told(s, c.NodeIP) {
			for _, p := range s.Spec.Ports {
				if portOf(p).Protocol == corev1.ProtocolTCP {
					except[int(p.Port)] = link.OfService(s.Namespace, s.Name)
				}
			}
		}
	}
	problems, err := n.ingress.Set(ctx, conf, except)
	now := map[string]bool{}
	for _, p := range problems {
		in := p.Ingress
		key := string(in.UID) + " " + p.Text
		if now[key] = true; !n.complained[key] {
			ref := corev1.ObjectReference{Kind: "Ingress", APIVersion: "networking.k8s.io/v1", Namespace: in.Namespace, Name: in.Name, UID: in.UID}
			n.event(ref, corev1.EventTypeWarning, events.IngressNotServed, p.Text)
		}
	}
	n.complained = now
	if n.ports.ingress(len(conf.Ingresses) > 0, n.ingress, except) {
		n.told()
	}
	return err
}

// told says whether a Service is served at a node's address.
func told(s *corev1.Service, self netip.Addr) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		return in.IP == self.String()
	})
}

// ingress notes which ports Ingresses want and do not have; changed says whether that is news.
func (p *ports) ingress(wanted bool, r *ingress.Runner, except map[int]string) (changed bool) {
	var lacks []link.PortInUse
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range r.Taken() {
		if !wanted {
			break
		}
		in := link.PortInUse{Protocol: corev1.ProtocolTCP, Port: uint16(t.Port), By: except[t.Port]}
		if in.By == "" {
			if uses, err := hostports.Find(p.proc, map[hostports.Port]bool{{Protocol: corev1.ProtocolTCP, Number: in.Port}: true}); err == nil && len(uses) > 0 {
				in.By = uses[0].Program
			}
		}
		lacks = append(lacks, in)
	}
	changed = !slices.Equal(lacks, p.lacks)
	p.lacks = lacks
	return changed
}

// openIngress makes the hold of the ingress process.
func (a *agent) openIngress() {
	c := &a.config
	if c.IngressHTTP == 0 && c.IngressHTTPS == 0 {
		return
	}
	a.network.ingress = ingress.Open(ingress.Options{Dir: c.dir("ingress"), HTTP: c.IngressHTTP, HTTPS: c.IngressHTTPS, Logger: a.log, Lost: a.network.poke})
	a.network.event = a.events.Event
	a.closers = append(a.closers, a.network.ingress.Close)
}
