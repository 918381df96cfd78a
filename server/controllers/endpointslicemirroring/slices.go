package endpointslicemirroring

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// maxPerSlice addresses of one family and one set of ports are shown; upstream's bound.
const maxPerSlice = 1000

// plan is what must be written so that the slices show the Endpoints.
type plan struct{ create, update, remove []*discoveryv1.EndpointSlice }

// show gives the slices that show Endpoints: one for each set of ports and family of addresses, in the order of the subsets.
func show(e *corev1.Endpoints) (shown []*discoveryv1.EndpointSlice, dropped int) {
	byKind := map[string]*discoveryv1.EndpointSlice{}
	add := func(ports []discoveryv1.EndpointPort, a corev1.EndpointAddress, ready bool) {
		ip, err := netip.ParseAddr(a.IP)
		if err != nil {
			return // the API refuses it
		}
		family := discoveryv1.AddressTypeIPv4
		if ip.Is6() {
			family = discoveryv1.AddressTypeIPv6
		}
		kind := kindOf(family, ports)
		s := byKind[kind]
		if s == nil {
			s = empty(e, family, ports)
			byKind[kind] = s
			shown = append(shown, s)
		}
		if len(s.Endpoints) == maxPerSlice {
			dropped++
			return
		}
		s.Endpoints = append(s.Endpoints, endpoint(a, ready))
	}
	for _, subset := range e.Subsets {
		ports := portsOf(subset)
		for _, a := range subset.Addresses {
			add(ports, a, true)
		}
		for _, a := range subset.NotReadyAddresses {
			add(ports, a, false)
		}
	}
	return shown, dropped
}

func empty(e *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: e.Name + "-", Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family, Ports: ports,
	}
	maps.Copy(s.Labels, e.Labels)
	s.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelManagedBy] = e.Name, managedBy
	maps.Copy(s.Annotations, e.Annotations)
	delete(s.Annotations, corev1.LastAppliedConfigAnnotation)
	delete(s.Annotations, corev1.EndpointsLastChangeTriggerTime)
	return s
}

func endpoint(a corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{
		Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, NodeName: a.NodeName, TargetRef: a.TargetRef,
	}
	if a.Hostname != "" {
		out.Hostname = &a.Hostname
	}
	return out
}

func portsOf(subset corev1.EndpointSubset) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(subset.Ports))
	for _, p := range subset.Ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &protocol, AppProtocol: p.AppProtocol})
	}
	return out
}

// kindOf is what slices of the same sort share: their family and their ports in any order.
func kindOf(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	all := make([]string, 0, len(ports))
	for _, p := range ports {
		var application string
		if p.AppProtocol != nil {
			application = *p.AppProtocol
		}
		all = append(all, fmt.Sprintf("%s/%d/%s/%s", *p.Name, *p.Port, *p.Protocol, application))
	}
	slices.Sort(all)
	return string(family) + " " + strings.Join(all, " ")
}

// planOf changes slices where they lie; family and ports of one never change.
func planOf(present, wanted []*discoveryv1.EndpointSlice) (p plan) {
	free := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range present {
		if s.DeletionTimestamp == nil {
			kind := kindOf(s.AddressType, filled(s.Ports))
			free[kind] = append(free[kind], s)
		}
	}
	for _, w := range wanted {
		kind := kindOf(w.AddressType, w.Ports)
		if len(free[kind]) == 0 {
			p.create = append(p.create, w)
			continue
		}
		s := free[kind][0]
		free[kind] = free[kind][1:]
		if !equality.Semantic.DeepEqual(s.Endpoints, w.Endpoints) || !maps.Equal(s.Labels, w.Labels) || !maps.Equal(s.Annotations, w.Annotations) ||
			!equality.Semantic.DeepEqual(s.OwnerReferences, w.OwnerReferences) {
			changed := s.DeepCopy()
			changed.Endpoints, changed.Labels, changed.Annotations, changed.OwnerReferences = w.Endpoints, w.Labels, w.Annotations, w.OwnerReferences
			p.update = append(p.update, changed)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(free)) {
		p.remove = append(p.remove, free[kind]...)
	}
	return p
}

// filled are ports as the API stores them, or as somebody left them out.
func filled(ports []discoveryv1.EndpointPort) []discoveryv1.EndpointPort {
	var none string
	var zero int32
	protocol := corev1.ProtocolTCP
	out := slices.Clone(ports)
	for i := range out {
		if out[i].Name == nil {
			out[i].Name = &none
		}
		if out[i].Port == nil {
			out[i].Port = &zero
		}
		if out[i].Protocol == nil {
			out[i].Protocol = &protocol
		}
	}
	return out
}
