package daemonset

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// generationLabel is what clusters from before revisions told templates apart by.
const generationLabel = "pod-template-generation"

// endured are the taints of a node in trouble: a daemon stays there, and
// starts there.
var endured = []corev1.Taint{
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}, // only with the host's network
}

// tolerations are the template's and, without a limit of time, the daemon's.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	out := slices.Clone(spec.Tolerations)
	for _, taint := range endured {
		if taint.Key == corev1.TaintNodeNetworkUnavailable && !spec.HostNetwork {
			continue
		}
		t := corev1.Toleration{Key: taint.Key, Operator: corev1.TolerationOpExists, Effect: taint.Effect}
		if at := slices.IndexFunc(out, func(o corev1.Toleration) bool { return o.MatchToleration(&t) }); at >= 0 {
			out[at] = t
		} else {
			out = append(out, t)
		}
	}
	return out
}

// fitter tells which nodes a DaemonSet is for; what it needs is parsed once.
type fitter struct {
	nodeName    string
	tolerations []corev1.Toleration
	affinity    nodeaffinity.RequiredNodeAffinity
}

func newFitter(ds *appsv1.DaemonSet) fitter {
	spec := &ds.Spec.Template.Spec
	return fitter{
		nodeName: spec.NodeName, tolerations: tolerations(spec),
		affinity: nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity),
	}
}

// fits says whether a pod should be started on a node, and whether one that is
// there may stay: that one has only to bear what drives pods away.
func (f fitter) fits(node *corev1.Node) (start, stay bool) {
	if f.nodeName != "" && f.nodeName != node.Name {
		return false, false
	}
	if ok, _ := f.affinity.Match(node); !ok { // what cannot be parsed matches nothing
		return false, false
	}
	start, stay = true, true
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule || schedulinghelper.TolerationsTolerateTaint(klog.Background(), f.tolerations, taint, true) {
			continue
		}
		start = false
		stay = stay && taint.Effect != corev1.TaintEffectNoExecute
	}
	return start, stay
}

// newPod makes the pod of a node.
func newPod(ds *appsv1.DaemonSet, hash, node string) *corev1.Pod {
	pod := pods.FromTemplate(&ds.Spec.Template, ds.Name, metav1.NewControllerRef(ds, kind))
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	if generation := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
		labels[generationLabel] = generation
	}
	labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	pod.Labels = labels
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	pod.Spec.Affinity = onlyOn(pod.Spec.Affinity, node)
	return pod
}

// onlyOn replaces what an affinity requires of nodes, which this one fulfils, by
// the node's name.
func onlyOn(a *corev1.Affinity, node string) *corev1.Affinity {
	if a == nil {
		a = &corev1.Affinity{}
	}
	if a.NodeAffinity == nil {
		a.NodeAffinity = &corev1.NodeAffinity{}
	}
	a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}},
	}
	return a
}

// nodeOf is the node that a pod is on or was made for; empty if nobody can tell.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}
