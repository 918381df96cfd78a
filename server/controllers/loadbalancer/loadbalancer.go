package loadbalancer

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/entrance"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client         kubernetes.Interface
	Events         record.EventRecorder
	Services       *cache.Cache[corev1.Service]
	EndpointSlices *cache.Cache[discoveryv1.EndpointSlice]
	Nodes          *cache.Cache[corev1.Node]
	Pods           *cache.Cache[corev1.Pod]
	Ingresses      *cache.Cache[networkingv1.Ingress]
	Classes        *cache.Cache[networkingv1.IngressClass]
	Pool           Pool
	Log            *slog.Logger
}

type controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
	// said is what each Service's events said last, so that it is said once. Only the one worker uses it.
	said map[loop.Key]string
	lost map[loss]string // the same of what Services want and others have
}

// all is the one key under which writes are remembered: an address must be seen
// as taken before the next is given.
var all = loop.Key{}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, said: map[loop.Key]string{}}
	c.loop = loop.New("service-controller", in.Log, c.reconcile).OneWorker()
	loop.Watch(c.loop, in.Services, c.keysOfService)
	loop.Watch(c.loop, in.Services, frontsOfService)
	loop.Watch(c.loop, in.Nodes, func(x cache.Change[corev1.Node]) []loop.Key {
		if x.Old != nil && x.New != nil && sameForServices(x.Old, x.New) {
			return nil
		}
		return append(c.everyone(), fronts)
	})
	if len(in.Pool) == 0 {
		loop.Watch(c.loop, in.EndpointSlices, func(x cache.Change[discoveryv1.EndpointSlice]) []loop.Key {
			return []loop.Key{{Namespace: x.Object().Namespace, Name: x.Object().Labels[discoveryv1.LabelServiceName]}}
		})
		loop.Watch(c.loop, in.Pods, c.keysOfPod)
		loop.Watch(c.loop, in.Ingresses, func(x cache.Change[networkingv1.Ingress]) []loop.Key {
			if x.Old != nil && x.New != nil && len(x.Old.Status.LoadBalancer.Ingress) == len(x.New.Status.LoadBalancer.Ingress) && link.IngressClassOf(x.Old) == link.IngressClassOf(x.New) {
				return nil
			}
			return c.everyone()
		})
		loop.Watch(c.loop, in.Classes, func(cache.Change[networkingv1.IngressClass]) []loop.Key { return c.everyone() })
	}
	return c.loop
}

// everyone are all Services that are ours.
func (c *controller) everyone() (keys []loop.Key) {
	for _, s := range c.Services.List("", nil) {
		if ours(s) {
			keys = append(keys, loop.KeyOf(s))
		}
	}
	return keys
}

// keysOfService is the Service, and those that wait when it may have set something free.
func (c *controller) keysOfService(x cache.Change[corev1.Service]) []loop.Key {
	keys := loop.Self(x)
	// One that is of another type by now holds its address until it is taken back, which may be a retry later.
	if o := x.Old; o != nil && (o.Spec.Type == corev1.ServiceTypeLoadBalancer || len(o.Status.LoadBalancer.Ingress) > 0 || len(o.Spec.ExternalIPs) > 0 || len(nodePortsOf(o)) > 0) {
		for _, s := range c.Services.List("", nil) {
			if ours(s) && len(s.Status.LoadBalancer.Ingress) == 0 {
				keys = append(keys, loop.KeyOf(s))
			}
		}
	}
	return keys
}

func (c *controller) keysOfPod(x cache.Change[corev1.Pod]) []loop.Key {
	if !entrance.HostPortsChanged(x) {
		return nil
	}
	return c.everyone()
}

func sameForServices(a, b *corev1.Node) bool {
	return candidate(a) == candidate(b) && addressOf(a) == addressOf(b) && slices.Equal(link.BusyPorts(a), link.BusyPorts(b))
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, all); err != nil {
		return err
	}
	if key == fronts {
		c.tell()
		return nil
	}
	svc, ok := c.Services.Get(key.Namespace, key.Name)
	if !ok {
		delete(c.said, key)
		return nil
	}
	if !ours(svc) {
		return c.release(ctx, key, svc)
	}
	p := decide(c.observe(svc))
	ingress := make([]corev1.LoadBalancerIngress, 0, len(p.addresses))
	vip := corev1.LoadBalancerIPModeVIP
	var ports []corev1.PortStatus
	if len(c.Pool) == 0 { // they say who has a port of the nodes
		for _, port := range portsOf(svc) {
			ports = append(ports, corev1.PortStatus{Port: port.Number, Protocol: port.Protocol})
		}
	}
	for _, a := range p.addresses {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &vip, Ports: ports})
	}
	had := svc.Status.LoadBalancer.Ingress
	if len(had) == len(ingress) && (len(had) == 0 || equality.Semantic.DeepEqual(had, ingress)) && (hasFinalizer(svc) || len(ingress) == 0) {
		c.explain(key, svc, p)
		return nil
	}
	if len(had) == 0 {
		c.Events.Event(svc, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	if err := c.write(ctx, svc, ingress, true); err != nil {
		return err
	}
	switch {
	case len(had) == 0:
		c.Events.Event(svc, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	case len(ingress) > 0:
		c.Events.Event(svc, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
	}
	c.explain(key, svc, p)
	return nil
}

// explain says why a Service has no address, or not every node's.
func (c *controller) explain(key loop.Key, svc *corev1.Service, p plan) {
	why := p.refusal
	if why == "" && len(p.addresses) == 0 {
		why = "no node is ready"
	}
	if c.said[key] == why {
		return
	}
	c.said[key] = why
	switch {
	case why == "":
		delete(c.said, key)
	case len(p.addresses) > 0:
		c.Events.Eventf(svc, corev1.EventTypeWarning, "NodesLeftOut", "Some nodes do not serve this: %s", why)
	case len(c.Pool) > 0:
		c.Events.Eventf(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: %s", why)
	default:
		c.Events.Eventf(svc, corev1.EventTypeWarning, "UnAvailableLoadBalancer", "There are no available nodes for LoadBalancer: %s", why)
	}
}

// release takes back what a Service has no use for any more. One that names somebody else's class is theirs.
func (c *controller) release(ctx context.Context, key loop.Key, svc *corev1.Service) error {
	delete(c.said, key)
	if !hasFinalizer(svc) || foreign(svc) {
		return nil
	}
	c.Events.Event(svc, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	if err := c.write(ctx, svc, nil, false); err != nil {
		return err
	}
	c.Events.Event(svc, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	return nil
}

// write sets the addresses and the finalizer in one step, over the version that was observed and no other.
func (c *controller) write(ctx context.Context, svc *corev1.Service, ingress []corev1.LoadBalancerIngress, keep bool) error {
	finalizers := slices.DeleteFunc(slices.Clone(svc.Finalizers), func(f string) bool { return f == finalizer })
	if keep {
		finalizers = append(finalizers, finalizer)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": svc.UID, "resourceVersion": svc.ResourceVersion, "finalizers": finalizers},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": ingress}},
	})
	if err != nil {
		return loop.Permanent(err)
	}
	written, err := c.Client.CoreV1().Services(svc.Namespace).Patch(ctx, svc.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return loop.Updated(&c.writes, all, c.Services, written, err, "write the addresses")
}

func (c *controller) observe(svc *corev1.Service) observed {
	o := observed{service: svc, services: c.Services.List("", nil), pool: c.Pool, nodes: c.Nodes.List("", nil)}
	if len(c.Pool) > 0 {
		return o
	}
	o.local, o.hostPort = map[string]bool{}, map[string]map[entrance.Port]string{}
	for _, s := range c.EndpointSlices.List(svc.Namespace, nil) {
		if s.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, e := range s.Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				o.local[*e.NodeName] = true
			}
		}
	}
	for _, p := range c.Pods.List("", nil) {
		for _, hp := range entrance.HostPorts(p) {
			if o.hostPort[p.Spec.NodeName] == nil {
				o.hostPort[p.Spec.NodeName] = map[entrance.Port]string{}
			}
			o.hostPort[p.Spec.NodeName][hp] = p.Namespace + "/" + p.Name
		}
	}
	for _, in := range c.Ingresses.List("", nil) {
		// What the status of another class's says is not about the nodes' own ports: its controller may well wait for this address.
		if !link.OurIngress(in, c.Classes.Get) {
			continue
		}
		if len(in.Status.LoadBalancer.Ingress) > 0 && (o.ingress == "" || in.Namespace+"/"+in.Name < o.ingress) {
			o.ingress = in.Namespace + "/" + in.Name
		}
	}
	return o
}
