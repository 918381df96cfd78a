package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	ipallocatorcontroller "k8s.io/kubernetes/pkg/registry/core/service/ipallocator/controller"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
)

// Cluster IPs are allocated by making an IPAddress object each, as upstream does: what is taken is in the store. Node ports have no
// object: of a server that is alone, a map is filled at the start from the Services in the store, which say what is taken; several
// servers reserve ports (see portReservations).

func newClusterIPs(client kubernetes.Interface, f informers.SharedInformerFactory, cidr netip.Prefix) (*ipallocator.MetaAllocator, error) {
	network := f.Networking().V1()
	return ipallocator.NewMetaAllocator(client.NetworkingV1(), network.ServiceCIDRs(), network.IPAddresses(), cidr.Addr().Is6(), nil)
}

// newNodePorts makes the allocator that fits the store.
func (s *Server) newNodePorts() (*portallocator.PortAllocator, error) {
	services := s.wiring.informers.Core().V1().Services().Lister()
	if s.config.severalServers() {
		return newSharedNodePorts(s.config.Store, services, nodePorts)
	}
	all, err := services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return newNodePorts(all, nodePorts, s.log)
}

func newNodePorts(services []*corev1.Service, r utilnet.PortRange, log *slog.Logger) (*portallocator.PortAllocator, error) {
	ports, err := portallocator.NewInMemory(r)
	if err != nil {
		return nil, fmt.Errorf("node ports: %w", err)
	}
	for _, s := range services {
		for _, p := range nodePortsOf(s) {
			err := ports.Allocate(int(p))
			var outside *portallocator.ErrNotInRange
			switch {
			case err == nil, errors.Is(err, portallocator.ErrAllocated): // one port for TCP and UDP is one allocation
			case errors.As(err, &outside):
				log.Warn("node port of a service lies outside the range of node ports", "service", s.Namespace+"/"+s.Name, "port", p, "range", r.String())
			default:
				return nil, fmt.Errorf("node port %d of service %s/%s: %w", p, s.Namespace, s.Name, err)
			}
		}
	}
	return ports, nil
}

func nodePortsOf(s *corev1.Service) (ports []int32) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, p.NodePort)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 {
		ports = append(ports, s.Spec.HealthCheckNodePort)
	}
	return ports
}

// inFlight is for how long the making of a Service may take, between that of its address and its own.
const inFlight = 2 * requestTimeout

// keepClusterIPs has upstream's controller follow Services and IPAddresses, until ctx is done: it makes the address of a Service anew that
// somebody has deleted or given to another, and deletes those that no Service has. Upstream's looks at all Services again every three
// minutes; here a Service is looked at when its address has gone, and nothing wakes up for nothing.
func (s *Server) keepClusterIPs(ctx context.Context) error {
	services, network := &retold{ServiceInformer: s.wiring.informers.Core().V1().Services()}, s.wiring.informers.Networking().V1()
	defer services.waiting.Wait()
	repair := ipallocatorcontroller.NewRepairIPAddress(0, s.wiring.client, services, network.ServiceCIDRs(), network.IPAddresses())
	gone, err := network.IPAddresses().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(o any) { services.tellOwner(ctx, o) }})
	if err != nil {
		return fmt.Errorf("cluster IPs: %w", err)
	}
	ended := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(ended) })()
	repair.RunUntil(func() {}, ended)
	return network.IPAddresses().Informer().RemoveEventHandler(gone)
}

// retold is the informer of Services, of which some can be told again to the one that listens.
type retold struct {
	coreinformers.ServiceInformer
	listener cache.ResourceEventHandler
	waiting  sync.WaitGroup // for addresses that are given back
}

// givingBack is how long the writing of a Service may take that gives its address back: upstream's registry deletes the address before it.
const givingBack = 3 * time.Second

func (r *retold) Informer() cache.SharedIndexInformer {
	return listenedTo{r.ServiceInformer.Informer(), r}
}

type listenedTo struct {
	cache.SharedIndexInformer
	by *retold
}

func (l listenedTo) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	l.by.listener = h
	return l.SharedIndexInformer.AddEventHandler(h)
}

// tellOwner tells of the Service that an IPAddress belonged to, if it has it yet when an address that was given back would be free.
func (r *retold) tellOwner(ctx context.Context, o any) {
	a, ok := o.(*networkingv1.IPAddress)
	if !ok || len(r.owners(a)) == 0 {
		return
	}
	r.waiting.Go(func() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(givingBack):
		}
		for _, s := range r.owners(a) {
			r.listener.OnUpdate(s, s)
		}
	})
}

// owners are the Services that have an address. Of one whose last state nobody knows that may be any.
func (r *retold) owners(a *networkingv1.IPAddress) (owners []*corev1.Service) {
	if p := a.Spec.ParentRef; p == nil {
		owners, _ = r.Lister().List(labels.Everything()) // a list of what lies in memory has no error
	} else if p.Resource == "services" {
		if s, err := r.Lister().Services(p.Namespace).Get(p.Name); err == nil {
			owners = append(owners, s)
		}
	}
	return slices.DeleteFunc(owners, func(s *corev1.Service) bool { return !slices.Contains(s.Spec.ClusterIPs, a.Name) })
}

// repairClusterIPs makes IPAddress objects and Services agree. It runs before anything is served, so nothing is in flight here: an
// address without its Service was left by a crash between the two writes, a Service without its address by a restored backup. Where
// other servers are at work, what is young may be in flight there.
func repairClusterIPs(ctx context.Context, client kubernetes.Interface, f informers.SharedInformerFactory, severalServers bool, log *slog.Logger) error {
	services, err := f.Core().V1().Services().Lister().List(labels.Everything())
	if err != nil {
		return fmt.Errorf("repair cluster IPs: %w", err)
	}
	taken := map[string]*corev1.Service{}
	for _, s := range services {
		for _, ip := range s.Spec.ClusterIPs {
			if ip != "" && ip != corev1.ClusterIPNone {
				taken[ip] = s
			}
		}
	}
	addresses, err := f.Networking().V1().IPAddresses().Lister().List(labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: ipallocator.ControllerName}))
	if err != nil {
		return fmt.Errorf("repair cluster IPs: %w", err)
	}
	for _, a := range addresses {
		p := a.Spec.ParentRef
		if s := taken[a.Name]; s != nil && p != nil && p.Namespace == s.Namespace && p.Name == s.Name {
			delete(taken, a.Name)
			continue
		}
		if severalServers && time.Since(a.CreationTimestamp.Time) < inFlight {
			continue
		}
		log.Info("freeing a cluster IP whose service does not exist", "ip", a.Name)
		if err := client.NetworkingV1().IPAddresses().Delete(ctx, a.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("repair cluster IP %s: %w", a.Name, err)
		}
	}
	for ip, s := range taken {
		log.Info("restoring the allocation of a cluster IP", "ip", ip, "service", s.Namespace+"/"+s.Name)
		if _, err := client.NetworkingV1().IPAddresses().Create(ctx, addressOf(ip, s), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("repair cluster IP %s: %w", ip, err)
		}
	}
	return nil
}

func addressOf(ip string, s *corev1.Service) *networkingv1.IPAddress {
	family := corev1.IPv4Protocol
	if a, err := netip.ParseAddr(ip); err == nil && a.Is6() {
		family = corev1.IPv6Protocol
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip, Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: ipallocator.ControllerName}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
}
