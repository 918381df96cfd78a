package api

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/controlplane/reconcilers"
)

const kubernetesService = "kubernetes"

// serviceIP is the address of default/kubernetes: the first of the service network.
func serviceIP(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr().Next() }

// seedKubernetesService makes default/kubernetes and its endpoint, the address where this server is reached. A server that moved
// changes the endpoint at its next start. Of several servers the endpoint is the one that leads; agents find that one through the
// broker, too.
func (s *Server) seedKubernetesService(ctx context.Context) error {
	services := s.wiring.client.CoreV1().Services(metav1.NamespaceDefault)
	port := corev1.ServicePort{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(s.port()))}
	have, err := services.Get(ctx, kubernetesService, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		single := corev1.IPFamilyPolicySingleStack
		_, err = services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: kubernetesService, Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
			Spec: corev1.ServiceSpec{
				Ports: []corev1.ServicePort{port}, ClusterIP: serviceIP(s.config.ServiceCIDR).String(), IPFamilyPolicy: &single,
				SessionAffinity: corev1.ServiceAffinityNone, Type: corev1.ServiceTypeClusterIP,
			},
		}, metav1.CreateOptions{})
	case err == nil && (len(have.Spec.Ports) != 1 || have.Spec.Ports[0] != port):
		have.Spec.Ports = []corev1.ServicePort{port}
		_, err = services.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil || !s.config.leads() {
		return err
	}
	ip := net.IP(s.config.AdvertiseAddress.AsSlice())
	if ip.IsLoopback() || ip.IsUnspecified() {
		return s.withoutEndpoint(ctx)
	}
	r := reconcilers.NewMasterCountEndpointReconciler(1, reconcilers.NewEndpointsAdapter(s.wiring.client.CoreV1(), s.wiring.client.DiscoveryV1()))
	ports := []corev1.EndpointPort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: int32(s.port())}}
	if err := r.ReconcileEndpoints(kubernetesService, ip, ports, true); err != nil {
		return fmt.Errorf("endpoint %s: %w", s.address(), err)
	}
	return nil
}

// withoutEndpoint takes back what an earlier start may have published: an endpoint may not be a loopback address, where a
// pod would find itself. Pods lose nothing, because on each node the agent answers for default/kubernetes and carries
// the connection over its link.
func (s *Server) withoutEndpoint(ctx context.Context) error {
	s.alone.Do(func() { // it is looked at every minute, and a log lies on the card too
		s.log.Warn("the API listens for this machine alone: default/kubernetes has no endpoint, and pods reach the API through their node's agent; "+
			"--advertise-address or another --api-listen publishes one", "address", s.config.AdvertiseAddress.String())
	})
	err := s.wiring.client.CoreV1().Endpoints(metav1.NamespaceDefault).Delete(ctx, kubernetesService, metav1.DeleteOptions{}) //nolint:staticcheck // old clients read them
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err = s.wiring.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Delete(ctx, kubernetesService, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// Lead does at once what this server keeps while it leads.
func (s *Server) Lead(ctx context.Context) error {
	return settled(func() error { return s.seedKubernetesService(ctx) })
}
