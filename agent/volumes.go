package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/catalog"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/token"
)

// objects is what volumes show: storage.Objects.
type objects struct {
	*catalog.Catalog
	tokens      *token.Tokens
	allocatable func() corev1.ResourceList
}

func (o objects) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return o.tokens.Get(ctx, pod, p)
}

// Field needs no addresses: the API refuses those of a pod in a volume.
func (o objects) Field(pod *corev1.Pod, ref *corev1.ObjectFieldSelector) (string, error) {
	return podspec.Field(pod, ref, podspec.Addresses{})
}

func (o objects) Resource(pod *corev1.Pod, ref *corev1.ResourceFieldSelector) (string, error) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == ref.ContainerName {
				return podspec.Resource(pod, &list[i], ref, o.allocatable())
			}
		}
	}
	return "", fmt.Errorf("container %s not found", ref.ContainerName)
}
