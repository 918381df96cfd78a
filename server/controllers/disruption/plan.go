package disruption

import (
	"fmt"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"bramble.dev/server/controllers/pods"
)

const (
	// deletionTimeout is how long a pod whose eviction was allowed may take until
	// it is seen to go; then it counts as staying.
	deletionTimeout = 2 * time.Minute
	// staleAfter is how long a pod may be about to be disrupted with nothing done.
	staleAfter = 2 * time.Minute
)

// observed is what a plan is made of; nothing of it is changed.
type observed struct {
	budget *policyv1.PodDisruptionBudget
	pods   []*corev1.Pod // that the budget selects
	now    time.Time
	// sizeOf is the size that the controller of a pod wants, or the one behind it,
	// which of them that is, and no UID if there is none.
	sizeOf func(ref *metav1.OwnerReference) (size int32, root types.UID, err error)
}

// plan is what the status should be, what is to be told, and when to look again.
type plan struct {
	status    policyv1.PodDisruptionBudgetStatus
	stayed    []*corev1.Pod // were allowed to be evicted and were not
	unmanaged []string
	wake      time.Duration // zero for never
}

// decide makes the plan. An error says that the expected number of pods is not known.
func decide(o observed) (plan, error) {
	var p plan
	expected, desired, err := p.expect(o)
	if err != nil {
		return plan{}, err
	}
	disrupted := p.disrupted(o)
	healthy := int32(0)
	for _, pod := range o.pods {
		if _, going := disrupted[pod.Name]; !going && pod.DeletionTimestamp == nil && pods.IsReady(pod) {
			healthy++
		}
	}
	allowed := max(healthy-desired, 0)
	if expected <= 0 {
		allowed = 0 // the first pods of a budget may not be known yet
	}
	b := o.budget.DeepCopy()
	b.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, DisruptedPods: disrupted, DisruptionsAllowed: allowed,
		CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected, Conditions: b.Status.Conditions,
	}
	if !agree(o.budget, b) {
		poddisruptionbudget.UpdateDisruptionAllowedCondition(b)
	}
	p.status = b.Status
	return p, nil
}

// agree says that a status holds what another does, so that its condition stays as it is.
func agree(has, wants *policyv1.PodDisruptionBudget) bool {
	return has.Status.DisruptionsAllowed == wants.Status.DisruptionsAllowed && poddisruptionbudget.ConditionsAreUpToDate(has)
}

// expect gives the number of pods that there should be, and of those that must stay healthy.
func (p *plan) expect(o observed) (expected, desired int32, err error) {
	spec := o.budget.Spec
	if spec.MaxUnavailable == nil && spec.MinAvailable == nil {
		return 0, 0, nil
	}
	if spec.MaxUnavailable == nil && spec.MinAvailable.Type == intstr.Int {
		return int32(len(o.pods)), spec.MinAvailable.IntVal, nil
	}
	if expected, err = p.sizes(o); err != nil {
		return 0, 0, err
	}
	if spec.MaxUnavailable == nil {
		least, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, int(expected), true)
		return expected, int32(least), err
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, int(expected), true)
	return expected, max(expected-int32(most), 0), err
}

// sizes adds up what the controllers of the pods want.
func (p *plan) sizes(o observed) (int32, error) {
	sum := int32(0)
	seen := map[types.UID]bool{}
	for _, pod := range o.pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			p.unmanaged = append(p.unmanaged, pod.Name)
			continue
		}
		if seen[ref.UID] {
			continue
		}
		size, root, err := o.sizeOf(ref)
		if err != nil {
			return 0, err
		}
		if root == "" {
			return 0, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		if !seen[root] {
			sum += size
		}
		seen[ref.UID], seen[root] = true, true
	}
	return sum, nil
}

// disrupted keeps those pods on the list that may still be about to go.
func (p *plan) disrupted(o observed) map[string]metav1.Time {
	out := map[string]metav1.Time{}
	for _, pod := range o.pods {
		since, listed := o.budget.Status.DisruptedPods[pod.Name]
		if !listed || pod.DeletionTimestamp != nil {
			continue
		}
		left := since.Add(deletionTimeout).Sub(o.now)
		if left < 0 {
			p.stayed = append(p.stayed, pod)
			continue
		}
		out[pod.Name] = since
		if left += time.Millisecond; p.wake == 0 || left < p.wake {
			p.wake = left
		}
	}
	return out
}

// refuse is the status of a budget that cannot be computed.
func refuse(b *policyv1.PodDisruptionBudget, why error) policyv1.PodDisruptionBudgetStatus {
	status := *b.Status.DeepCopy()
	status.DisruptionsAllowed = 0
	apimeta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: why.Error(), ObservedGeneration: status.ObservedGeneration,
	})
	return status
}

// stale says that a pod is marked as about to be disrupted and nobody does it,
// and how long that may go on. What a node does itself may take any time.
func stale(pod *corev1.Pod, now time.Time) (left time.Duration, ok bool) {
	c := pods.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet ||
		pod.DeletionTimestamp != nil || pods.IsFinished(pod) {
		return 0, false
	}
	return max(c.LastTransitionTime.Add(staleAfter).Sub(now), 0), true
}
