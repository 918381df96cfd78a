package fake

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Volumes are volumes in memory.
type Volumes struct {
	mu      sync.Mutex
	Err     error
	Mounted map[types.UID]int
}

// Mount mounts.
func (v *Volumes) Mount(_ context.Context, pod *corev1.Pod) (map[string]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.Err != nil {
		return nil, v.Err
	}
	if v.Mounted == nil {
		v.Mounted = map[types.UID]int{}
	}
	v.Mounted[pod.UID]++
	paths := map[string]string{}
	for _, vol := range pod.Spec.Volumes {
		paths[vol.Name] = "/volumes/" + vol.Name
	}
	return paths, nil
}

// Refresh does nothing.
func (v *Volumes) Refresh(context.Context, *corev1.Pod) error { return nil }

// Touch does it.
func (v *Volumes) Touch(ctx context.Context, _ string, do func(context.Context) error) error {
	return do(ctx)
}

// GiveUp finds no file server.
func (v *Volumes) GiveUp(context.Context, types.UID) ([]string, error) { return nil, nil }

// Unmount unmounts.
func (v *Volumes) Unmount(_ context.Context, uid types.UID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.Mounted, uid)
	return nil
}

// Sweep does nothing.
func (v *Volumes) Sweep(context.Context, []types.UID) error { return nil }
