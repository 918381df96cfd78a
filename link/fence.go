package link

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A fence ends, on a node that the server does not hear of, what may run only once, before the server puts another in
// its place. Node and server never compare clocks: the node counts from when it asked the server for a sign of life and
// got it, the server from when it last gave one, which is later. docs/away.md draws it.

// Times of a fence.
const (
	// fencePatience is how long a node may be unheard of before the tolerations of its pods begin to count. It is less
	// than the server waits before it calls the node unreachable.
	fencePatience = 60 * time.Second
	// fenceReserve is what the pod's shim, which kills without a word, waits longer than the agent, which ends
	// the pod in order.
	fenceReserve = 10 * time.Second
	// fenceSlack is how much longer than the longest life of the pod the server waits: processes that die slowly.
	fenceSlack = 20 * time.Second
)

// FenceCondition is the condition of a pod that a node's agent and the pod's shim end when the server is not heard of.
const FenceCondition corev1.PodConditionType = "bramble.dev/EndsWhenCutOff"

const fenceWords = "Ended at most %d s after the server last heard of the node"

// Fence is how long a pod may go on without the server.
type Fence struct {
	Stop time.Duration // then the agent ends it, as any pod is ended
	Kill time.Duration // and then its shim kills what is left
}

// FenceFor is the fence of a pod that has one: it may run only once, and its tolerations say for how many seconds it stays on a
// node that is unreachable. Of a claim that is not known the worst is believed.
func FenceFor(pod *corev1.Pod, claim func(namespace, name string) (*corev1.PersistentVolumeClaim, bool)) (Fence, bool) {
	after, limited := Patience(pod)
	if !limited || !runsOnce(pod, claim) {
		return Fence{}, false
	}
	grace := 30 * time.Second
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(max(*g, 1)) * time.Second
	}
	stop := fencePatience + after
	return Fence{Stop: stop, Kill: stop + grace + fenceReserve}, true
}

// Within is the fence of a pod that has been told to the server before: it may get shorter, and never longer, because the server
// counts on what it was told.
func (f Fence) Within(told time.Duration) Fence {
	if over := f.Kill - told; told > 0 && over > 0 {
		f.Stop, f.Kill = max(f.Stop-over, 0), told
	}
	return f
}

// Condition tells the server of a fence.
func (f Fence) Condition(now time.Time) corev1.PodCondition {
	return corev1.PodCondition{
		Type: FenceCondition, Status: corev1.ConditionTrue, Reason: "TolerationSeconds", LastTransitionTime: metav1.NewTime(now),
		Message: fmt.Sprintf(fenceWords, int64((f.Kill+time.Second-1)/time.Second)),
	}
}

// FenceTold is what the node has told of a pod's fence: the longest time that the pod lives without the server.
func FenceTold(conditions []corev1.PodCondition) (kill time.Duration, ok bool) {
	for _, c := range conditions {
		var seconds int64
		if c.Type != FenceCondition || c.Status != corev1.ConditionTrue {
			continue
		}
		if n, err := fmt.Sscanf(c.Message, fenceWords, &seconds); n != 1 || err != nil || seconds <= 0 || seconds > 1<<33 {
			return 0, false
		}
		return time.Duration(seconds) * time.Second, true
	}
	return 0, false
}

// FencePassed is how long after it last gave a sign of life the server may count a fenced pod as ended: quartz is good to
// a hundredth of a percent, and a thousandth is allowed for.
func FencePassed(kill time.Duration) time.Duration { return kill + kill/1000 + fenceSlack }

// Patience is how long a pod stays on a node that is unreachable, if it says so itself.
func Patience(pod *corev1.Pod) (after time.Duration, limited bool) {
	for _, t := range pod.Spec.Tolerations {
		all := t.Key == "" && t.Operator == corev1.TolerationOpExists
		named := t.Key == corev1.TaintNodeUnreachable && (t.Operator == corev1.TolerationOpExists || t.Value == "")
		if t.TolerationSeconds == nil || !all && !named || t.Effect != "" && t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		// Beyond a year it is never, and the sums stay far from their bounds.
		d := time.Duration(min(max(*t.TolerationSeconds, 0), 366*24*3600)) * time.Second
		if !limited || d < after {
			after, limited = d, true
		}
	}
	return after, limited
}

// runsOnce: a pod with an identity, or with a volume that one node at a time may have.
func runsOnce(pod *corev1.Pod, claim func(namespace, name string) (*corev1.PersistentVolumeClaim, bool)) bool {
	if c := metav1.GetControllerOf(pod); c != nil && c.Kind == "StatefulSet" {
		return true
	}
	for i := range pod.Spec.Volumes {
		name, ok := ClaimOf(pod, &pod.Spec.Volumes[i])
		if !ok {
			continue
		}
		if c, known := claim(pod.Namespace, name); !known || !onSeveralNodes(c) {
			return true
		}
	}
	return false
}

// onSeveralNodes: the claim's volume may be on several nodes at a time.
func onSeveralNodes(c *corev1.PersistentVolumeClaim) bool {
	for _, m := range c.Spec.AccessModes {
		if m != corev1.ReadWriteMany && m != corev1.ReadOnlyMany {
			return false
		}
	}
	return len(c.Spec.AccessModes) > 0
}
