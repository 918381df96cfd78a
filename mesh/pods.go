package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/mesh/bridge"
	"bramble.dev/mesh/ipam"
	"bramble.dev/mesh/policy"
	"bramble.dev/mesh/services"
)

// adopt takes over the pods that an earlier agent attached.
func (m *Mesh) adopt() {
	for _, l := range m.pool.List() {
		if m.bridge.Attached(l.ID) {
			m.pods[l.ID] = attached{IP: l.IP, note: noteOf(l), linked: true}
		}
	}
}

// note is what a lease carries besides the address.
type note struct {
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	HostPorts []HostPort `json:"hostPorts,omitempty"`
	// What policies see of the pod, for one that the server has forgotten.
	Labels map[string]string      `json:"labels,omitempty"`
	Ports  []corev1.ContainerPort `json:"ports,omitempty"`
}

func noteOf(l ipam.Lease) note {
	var n note
	_ = json.Unmarshal(l.Note, &n) // one that cannot be read has no host ports
	return n
}

// attached is a pod that has a link, or is about to get one.
type attached struct {
	IP netip.Addr
	note
	linked bool
}

func (a attached) service() services.Pod { return services.Pod{IP: a.IP, Ports: a.HostPorts} }

// policy is what policies see of a pod: the newest of what the server says (nil when it has forgotten
// the pod, if it says which there are) and of what it was attached with.
func (a attached) policy(p *corev1.Pod, told bool) policy.Pod {
	out := policy.Pod{IP: a.IP, Namespace: a.Namespace, Name: a.Name, Labels: a.Labels, Ports: a.Ports, Forgotten: told && p == nil && a.linked}
	if p != nil {
		out.Labels, out.Ports = p.Labels, PortsOf(p)
	}
	return out
}

// PortsOf are the ports of a pod that a policy may name: those of its containers and its sidecars, as for Services.
func PortsOf(p *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	sidecars := slices.DeleteFunc(slices.Clone(p.Spec.InitContainers), func(c corev1.Container) bool {
		return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
	})
	for _, c := range slices.Concat(p.Spec.Containers, sidecars) {
		for _, port := range c.Ports {
			if port.Name != "" {
				out = append(out, corev1.ContainerPort{Name: port.Name, ContainerPort: port.ContainerPort, Protocol: port.Protocol})
			}
		}
	}
	return out
}

// Attach gives a pod its namespace, link and address; the same ones each time, also after a restart.
func (m *Mesh) Attach(ctx context.Context, p PodNetwork) (Attachment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: the node has no pod subnet yet", p.Namespace, p.Name)
	}
	if l, ok := m.pool.Get(string(p.UID)); ok && !m.config.PodCIDR.Contains(l.IP) {
		m.Logger.Warn("the node has another pod subnet than when the pod was attached, giving it another address", "pod", p.Namespace+"/"+p.Name, "had", l.IP.String(), "subnet", m.config.PodCIDR.String())
		if err := m.detach(ctx, l.ID); err != nil {
			return Attachment{}, fmt.Errorf("attach pod %s/%s anew: %w", p.Namespace, p.Name, err)
		}
	}
	n, err := json.Marshal(note{Namespace: p.Namespace, Name: p.Name, HostPorts: p.HostPorts, Labels: p.Labels, Ports: p.Ports})
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	lease, err := m.pool.Reserve(string(p.UID), m.config.PodCIDR, n)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	_, before := m.pods[lease.ID]
	if !before {
		// The isolation comes before the link: no packet of the pod's passes without it.
		m.pods[lease.ID] = attached{IP: lease.IP, note: noteOf(lease)}
		if err := m.setPolicy(ctx); err != nil {
			delete(m.pods, lease.ID)
			return Attachment{}, fmt.Errorf("attach pod %s/%s: network policies: %w", p.Namespace, p.Name, err)
		}
	}
	synced := make(chan error, 1)
	go func() { synced <- m.pool.Sync(lease.ID) }()
	path, err := m.bridge.Attach(ctx, bridge.Pod{ID: lease.ID, IP: lease.IP})
	if err = errors.Join(err, <-synced); err != nil {
		if !before {
			delete(m.pods, lease.ID)
		}
		return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	if !before {
		m.pods[lease.ID] = attached{IP: lease.IP, note: noteOf(lease), linked: true}
		if err := m.setServices(ctx); err != nil {
			delete(m.pods, lease.ID)
			return Attachment{}, fmt.Errorf("attach pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	return Attachment{NetNS: path, IP: lease.IP}, nil
}

// Detach takes a pod's link, namespace and address away. A pod that has none is no error.
func (m *Mesh) Detach(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.detach(ctx, string(uid))
}

func (m *Mesh) detach(ctx context.Context, id string) error {
	lease, ok := m.pool.Get(id)
	if !ok {
		lease.ID = id
	}
	var errs []error
	p, known := m.pods[id]
	if known && p.linked {
		p.linked = false // for Services; its isolation goes after the link
		m.pods[id] = p
		if m.ready {
			errs = append(errs, m.setServices(ctx))
		}
	}
	err := m.bridge.Detach(ctx, bridge.Pod{ID: lease.ID, IP: lease.IP})
	if err == nil {
		delete(m.pods, id)
		if known && m.ready {
			if err := m.setPolicy(ctx); !errors.Is(err, errUnknown) {
				errs = append(errs, err)
			}
		}
		err = m.pool.Release(id)
	}
	return errors.Join(append(errs, err)...)
}

// Sweep detaches all pods but those given, and removes links and namespaces that belong to none.
func (m *Mesh) Sweep(ctx context.Context, keep []types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	var kept []bridge.Pod
	for _, l := range m.pool.List() {
		if slices.Contains(keep, types.UID(l.ID)) {
			kept = append(kept, bridge.Pod{ID: l.ID, IP: l.IP})
			continue
		}
		errs = append(errs, m.detach(ctx, l.ID))
	}
	if m.ready {
		errs = append(errs, m.bridge.Sweep(ctx, kept))
	}
	return errors.Join(errs...)
}
