package agent

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/catalog"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/token"
)

// objects is what volumes show.
type objects struct {
	*catalog.Catalog
	tokens      *token.Tokens
	allocatable func() corev1.ResourceList
}

// Token implements storage.Objects.
func (o objects) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return o.tokens.Get(ctx, pod, p)
}

// openVolumes opens the node's volumes.
func openVolumes(_ string, _ objects, _ *slog.Logger) (seam.Volumes, error) { return noVolumes{}, nil }

// noVolumes stands in until package storage is there.
type noVolumes struct{}

func (noVolumes) Mount(_ context.Context, pod *corev1.Pod) (map[string]string, error) {
	for _, v := range pod.Spec.Volumes {
		return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : volumes are not built yet", v.Name)
	}
	return map[string]string{}, nil
}
func (noVolumes) Refresh(context.Context, *corev1.Pod) error { return nil }
func (noVolumes) Unmount(context.Context, types.UID) error   { return nil }
func (noVolumes) Sweep(context.Context, []types.UID) error   { return nil }
