package dispatch

import (
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
)

func ingressKey(in *networkingv1.Ingress) string { return "ingresses/" + in.Namespace + "/" + in.Name }

func ourIngress(caches *cache.Set, in *networkingv1.Ingress) bool {
	return link.OurIngress(in, caches.IngressClasses().Get) && in.DeletionTimestamp == nil
}

func trimIngress(in *networkingv1.Ingress) *networkingv1.Ingress {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	out.OwnerReferences, out.Finalizers, out.Labels = nil, nil, nil
	out.Status = networkingv1.IngressStatus{}
	return &out
}

func (s *shared) ingress(x *networkingv1.Ingress) valueAt {
	if !ourIngress(s.caches, x) {
		return nowhere
	}
	value, err := trimIngress(x).Marshal()
	return func(string) ([]byte, error) { return value, err }
}

// ingressSecrets are the Secrets that the Ingresses which nodes serve name.
func (s state) ingressSecrets() (refs []ref) {
	for _, in := range s.caches.Ingresses().List("", nil) {
		if !ourIngress(s.caches, in) {
			continue
		}
		for _, t := range in.Spec.TLS {
			if t.SecretName != "" {
				refs = append(refs, ref{secret, in.Namespace, t.SecretName})
			}
		}
	}
	return refs
}

// watchIngresses marks what changes of Ingresses and their classes touch: the item, and, where Secrets are named, all nodes.
func (d *Dispatcher) watchIngresses() []func() {
	c := d.cfg.Caches
	touch := func(in *networkingv1.Ingress) {
		d.dirty.add(ingressKey(in))
		if len(in.Spec.TLS) > 0 {
			for _, n := range d.all() {
				d.dirty.add(nodeKey(n.name))
			}
		}
	}
	return []func(){
		c.Ingresses().OnChange(func(x cache.Change[networkingv1.Ingress]) {
			for _, in := range []*networkingv1.Ingress{x.Old, x.New} {
				if in != nil {
					touch(in)
				}
			}
		}),
		c.IngressClasses().OnChange(func(cache.Change[networkingv1.IngressClass]) {
			for _, in := range c.Ingresses().List("", nil) {
				touch(in)
			}
		}),
	}
}
