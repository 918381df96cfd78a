package fake

import (
	"context"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/seam"
)

// Network hands out addresses.
type Network struct {
	mu   sync.Mutex
	next netip.Addr
	pods map[types.UID]netip.Addr
	Err  error
}

// Attach gives a pod an address, always the same one.
func (n *Network) Attach(_ context.Context, pod *corev1.Pod) (seam.Attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Err != nil {
		return seam.Attachment{}, n.Err
	}
	if n.pods == nil {
		n.pods, n.next = map[types.UID]netip.Addr{}, netip.MustParseAddr("10.42.0.2")
	}
	ip, ok := n.pods[pod.UID]
	if !ok {
		ip, n.next = n.next, n.next.Next()
		n.pods[pod.UID] = ip
	}
	return seam.Attachment{NetNS: "/netns/" + string(pod.UID), IP: ip}, nil
}

// Detach takes the address back.
func (n *Network) Detach(_ context.Context, uid types.UID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, uid)
	return nil
}

// Attached counts the pods that have an address.
func (n *Network) Attached() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.pods)
}

// Sweep does nothing.
func (n *Network) Sweep(context.Context, []types.UID) error { return nil }
