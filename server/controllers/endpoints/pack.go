package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/endpointslice"
	libraryutil "k8s.io/endpointslice/util"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// capacity bounds the addresses of one Endpoints object.
const capacity = 1000

// endpoint is one pod as an address with the ports that it serves on.
type endpoint struct {
	address corev1.EndpointAddress
	ports   []corev1.EndpointPort
	ready   bool
}

// collect lists the endpoints of a Service's pods.
func collect(service *corev1.Service, selected []*corev1.Pod) []endpoint {
	var out []endpoint
	headless := service.Spec.ClusterIP == corev1.ClusterIPNone
	for _, pod := range selected {
		if !libraryutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		e := endpoint{address: corev1.EndpointAddress{
			IP: ip, NodeName: &pod.Spec.NodeName,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}, ready: service.Spec.PublishNotReadyAddresses || pods.IsReady(pod)}
		if libraryutil.ShouldSetHostname(pod, service) {
			e.address.Hostname = pod.Spec.Hostname
		}
		for i := range service.Spec.Ports {
			port := &service.Spec.Ports[i]
			number, err := endpointslice.FindPort(pod, port)
			if err != nil {
				continue // this pod does not name the port
			}
			e.ports = append(e.ports, corev1.EndpointPort{Name: port.Name, Port: int32(number), Protocol: port.Protocol, AppProtocol: port.AppProtocol})
		}
		if len(e.ports) > 0 || (headless && len(service.Spec.Ports) == 0) {
			out = append(out, e)
		}
	}
	return out
}

// addressOf picks the pod's address of the Service's first family.
func addressOf(service *corev1.Service, pod *corev1.Pod) (string, bool) {
	want6 := false
	if f := service.Spec.IPFamilies; len(f) > 0 {
		want6 = f[0] == corev1.IPv6Protocol
	} else if a, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil {
		want6 = a.Is6()
	} else if a, err := netip.ParseAddr(pod.Status.PodIP); err == nil {
		want6 = a.Is6()
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is6() == want6 {
			return a.String(), true
		}
	}
	return "", false
}

// pack groups endpoints that serve on the same ports, all in one order. It says
// whether some had to be left out.
func pack(all []endpoint) (subsets []corev1.EndpointSubset, truncated bool) {
	slices.SortFunc(all, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(key(a.ports), key(b.ports)), cmp.Compare(a.address.IP, b.address.IP), cmp.Compare(a.address.TargetRef.UID, b.address.TargetRef.UID))
	})
	all, truncated = truncate(all)
	for i, e := range all {
		if i == 0 || key(e.ports) != key(all[i-1].ports) {
			subsets = append(subsets, corev1.EndpointSubset{Ports: sorted(e.ports)})
		}
		s := &subsets[len(subsets)-1]
		if e.ready {
			s.Addresses = append(s.Addresses, e.address)
		} else {
			s.NotReadyAddresses = append(s.NotReadyAddresses, e.address)
		}
	}
	return subsets, truncated
}

// truncate keeps ready endpoints before others.
func truncate(all []endpoint) ([]endpoint, bool) {
	if len(all) <= capacity {
		return all, false
	}
	ready := 0
	for _, e := range all {
		if e.ready {
			ready++
		}
	}
	unready := max(capacity-ready, 0)
	ready = min(ready, capacity)
	var out []endpoint
	for _, e := range all {
		left := &unready
		if e.ready {
			left = &ready
		}
		if *left > 0 {
			*left--
			out = append(out, e)
		}
	}
	return out, true
}

func sorted(ports []corev1.EndpointPort) []corev1.EndpointPort {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

func key(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range sorted(ports) {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		fmt.Fprintf(&b, "%s/%d/%s/%s;", p.Name, p.Port, p.Protocol, app)
	}
	return b.String()
}
