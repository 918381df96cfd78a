package tainteviction

import (
	"slices"
	"time"

	"k8s.io/klog/v2"

	corev1 "k8s.io/api/core/v1"
)

// decision is what becomes of a pod under its node's taints.
type decision struct {
	stays bool
	away  bool      // because the node is away
	at    time.Time // when it goes otherwise
}

func noExecute(node *corev1.Node) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

// away are the taints of a node that may just have lost its link.
func away(t corev1.Taint) bool {
	return t.Key == corev1.TaintNodeUnreachable || t.Key == corev1.TaintNodeNotReady
}

// decide weighs taints against tolerations; of the times at which they end the earliest counts. since is from when the pod
// has been under a taint: each has a time of its own, or one that is tolerated for a minute would not be tolerated at all
// by a pod that has been under another for an hour.
func decide(taints []corev1.Taint, tolerations []corev1.Toleration, since func(key string) time.Time) decision {
	d := decision{stays: true}
	absent := slices.ContainsFunc(taints, away)
	for i := range taints {
		tolerated, after := tolerate(&taints[i], tolerations)
		var at time.Time
		switch {
		case !tolerated && !away(taints[i]):
			at = since(taints[i].Key)
		case after != nil:
			at = since(taints[i].Key).Add(*after)
		default:
			continue
		}
		if d.stays || at.Before(d.at) {
			d = decision{at: at, away: absent}
		}
	}
	return d
}

// tolerate says whether a taint is tolerated, and for how long if not for ever.
func tolerate(taint *corev1.Taint, tolerations []corev1.Toleration) (tolerated bool, after *time.Duration) {
	for i := range tolerations {
		t := &tolerations[i]
		if !t.ToleratesTaint(klog.Background(), taint, true) {
			continue
		}
		tolerated = true
		if t.TolerationSeconds == nil {
			continue
		}
		if d := time.Duration(max(*t.TolerationSeconds, 0)) * time.Second; after == nil || d < *after {
			after = &d
		}
	}
	return tolerated, after
}
