package ingress

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// redirectAnnotation with the value "false" lets an Ingress with TLS be used without.
const redirectAnnotation = "bramble.dev/ssl-redirect"

// Config is what a table is made of.
type Config struct {
	Ingresses      []*networkingv1.Ingress
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	Secret         func(namespace, name string) (*corev1.Secret, bool)
}

// Problem is why a part of an Ingress is not served as it says.
type Problem struct {
	Ingress *networkingv1.Ingress
	Text    string
}

type compiler struct {
	Config
	table    Table
	services map[string]*corev1.Service
	slices   map[string][]*discoveryv1.EndpointSlice
	backends map[string]int
	problems []Problem
}

// Compile makes the table of what is to be served. Where two Ingresses want the same, the older has it.
func Compile(c Config, https int) (Table, []Problem) {
	k := &compiler{Config: c, table: Table{Hosts: map[string][]Route{}, HTTPS: https}, services: map[string]*corev1.Service{}, slices: map[string][]*discoveryv1.EndpointSlice{}, backends: map[string]int{}}
	for _, s := range c.Services {
		k.services[s.Namespace+"/"+s.Name] = s
	}
	for _, s := range c.EndpointSlices {
		key := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
		k.slices[key] = append(k.slices[key], s)
	}
	all := slices.Clone(c.Ingresses)
	slices.SortStableFunc(all, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, in := range all {
		k.ingress(in)
	}
	for _, routes := range k.table.Hosts {
		slices.SortStableFunc(routes, func(a, b Route) int { // the longer first, and of the same the exact one
			return cmp.Or(cmp.Compare(len(strings.TrimSuffix(b.Path, "/")), len(strings.TrimSuffix(a.Path, "/"))), cmp.Compare(btoi(b.Exact), btoi(a.Exact)))
		})
	}
	return k.table, k.problems
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (k *compiler) problem(in *networkingv1.Ingress, format string, args ...any) {
	k.problems = append(k.problems, Problem{in, fmt.Sprintf(format, args...)})
}

func (k *compiler) ingress(in *networkingv1.Ingress) {
	k.certs(in)
	if b := in.Spec.DefaultBackend; b != nil && k.table.Default == nil {
		k.table.Default = &Route{Backend: k.backend(in, b), Secure: k.secure(in, "")}
	}
	for _, rule := range in.Spec.Rules {
		host := strings.ToLower(rule.Host)
		if rule.HTTP == nil {
			if b := in.Spec.DefaultBackend; b != nil { // all of the host
				k.add(host, Route{Path: "/", Backend: k.backend(in, b), Secure: k.secure(in, host)})
			}
			continue
		}
		for i := range rule.HTTP.Paths {
			p := &rule.HTTP.Paths[i]
			r := Route{Path: cmp.Or(p.Path, "/"), Exact: p.PathType != nil && *p.PathType == networkingv1.PathTypeExact, Backend: k.backend(in, &p.Backend), Secure: k.secure(in, host)}
			if !k.add(host, r) {
				k.problem(in, "path %s of host %q is an older Ingress's", r.Path, host)
			}
		}
	}
}

func (k *compiler) add(host string, r Route) bool {
	if slices.ContainsFunc(k.table.Hosts[host], func(x Route) bool { return x.Path == r.Path && x.Exact == r.Exact }) {
		return false
	}
	k.table.Hosts[host] = append(k.table.Hosts[host], r)
	return true
}

// secure says whether a host's plain requests are sent on to HTTPS: where the Ingress has TLS for it.
func (k *compiler) secure(in *networkingv1.Ingress, host string) bool {
	if in.Annotations[redirectAnnotation] == "false" || k.table.HTTPS == 0 {
		return false
	}
	return slices.ContainsFunc(in.Spec.TLS, func(t networkingv1.IngressTLS) bool {
		return len(t.Hosts) == 0 || slices.ContainsFunc(t.Hosts, func(h string) bool {
			return strings.EqualFold(h, host) || strings.ToLower(h) == wildcard(host)
		})
	})
}

func (k *compiler) certs(in *networkingv1.Ingress) {
	for _, t := range in.Spec.TLS {
		if t.SecretName == "" {
			continue // TLS with the certificate that stands in for others
		}
		s, ok := k.Secret(in.Namespace, t.SecretName)
		if !ok {
			k.problem(in, "secret %q for TLS does not exist", t.SecretName)
			continue
		}
		c := Cert{Cert: s.Data[corev1.TLSCertKey], Key: s.Data[corev1.TLSPrivateKeyKey]}
		if _, err := tls.X509KeyPair(c.Cert, c.Key); err != nil {
			k.problem(in, "secret %q for TLS cannot be used: %v", t.SecretName, err)
			continue
		}
		for _, h := range t.Hosts {
			c.Hosts = append(c.Hosts, strings.ToLower(h))
		}
		k.table.Certs = append(k.table.Certs, c)
	}
}

// backend is the index of a Service's port among the backends; -1 is one that cannot be.
func (k *compiler) backend(in *networkingv1.Ingress, b *networkingv1.IngressBackend) int {
	if b.Service == nil {
		k.problem(in, "a backend that is no Service is not supported")
		return -1
	}
	port := b.Service.Port.Name
	if port == "" {
		port = strconv.Itoa(int(b.Service.Port.Number))
	}
	service := in.Namespace + "/" + b.Service.Name
	key := service + ":" + port
	if i, ok := k.backends[key]; ok {
		return i
	}
	svc := k.services[service]
	if svc == nil {
		k.problem(in, "service %q does not exist", b.Service.Name)
		return -1
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName { // what endpoints it still has are of another time
		k.problem(in, "service %q is of type ExternalName, which is not supported", b.Service.Name)
		return -1
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			return false // its number may be that of another port, which speaks HTTP
		}
		return p.Name == port || strconv.Itoa(int(p.Port)) == port && b.Service.Port.Name == ""
	})
	if i < 0 {
		k.problem(in, "service %q has no port %s", b.Service.Name, port)
		return -1
	}
	k.table.Backends = append(k.table.Backends, k.endpoints(service, svc.Spec.Ports[i].Name))
	k.backends[key] = len(k.table.Backends) - 1
	return k.backends[key]
}

// endpoints are the ready ones of a Service's port; when there is none, those that still serve while they end.
func (k *compiler) endpoints(service, port string) []string {
	var ready, serving []string
	for _, s := range k.slices[service] {
		i := slices.IndexFunc(s.Ports, func(p discoveryv1.EndpointPort) bool {
			return (p.Name == nil && port == "" || p.Name != nil && *p.Name == port) && p.Port != nil
		})
		if i < 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			a, err := netip.ParseAddr(e.Addresses[0])
			if err != nil {
				continue
			}
			to := netip.AddrPortFrom(a, uint16(*s.Ports[i].Port)).String()
			switch c := e.Conditions; {
			case c.Ready == nil || *c.Ready:
				ready = append(ready, to)
			case c.Serving != nil && *c.Serving:
				serving = append(serving, to)
			}
		}
	}
	if len(ready) == 0 {
		ready = serving
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}
