package scheduler

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	corev1 "k8s.io/api/core/v1"
)

// noDrivers is more words about a pod whose claims ask for devices.
const noDrivers = "Bramble has no drivers of devices (dynamic resource allocation): a pod that names ResourceClaims runs on no node."

// allocated refuses all nodes for a pod with claims of devices, because nobody allocates them: it must not run without.
func allocated(p *candidate, _ *nodeState) *refusal {
	if len(p.pod.Spec.ResourceClaims) == 0 {
		return nil
	}
	return never("cannot allocate all claims")
}

func driverless(p *candidate, _ []*nodeState) string {
	if len(p.pod.Spec.ResourceClaims) == 0 {
		return ""
	}
	return noDrivers
}

// claimsOf says what a pod's claims lack before any node is asked, in upstream's words.
func (s *scheduler) claimsOf(ctx context.Context, pod *corev1.Pod) (missing string) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	for i := range pod.Spec.ResourceClaims {
		name, owned, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return err.Error()
		}
		if name == nil {
			continue
		}
		claim, err := s.Client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, *name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return fmt.Sprintf("could not find ResourceClaim %q", pod.Namespace+"/"+*name)
		case err != nil:
			return err.Error()
		case claim.DeletionTimestamp != nil:
			return fmt.Sprintf("resourceclaim %q is being deleted", claim.Name)
		}
		if owned {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return err.Error()
			}
		}
	}
	return ""
}
