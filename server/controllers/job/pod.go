package job

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

const (
	indexVariable = "JOB_COMPLETION_INDEX"
	// noIndex is the index of a pod that has none.
	noIndex = -1
	// longestPrefix is what the API takes of a prefix for generated names.
	longestPrefix = 58
)

// newPod is a pod to be made, in place of a failed one of its index or of none.
type newPod struct {
	index    int
	replaces *corev1.Pod
}

func isIndexed(j *batchv1.Job) bool {
	return j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion
}

func isPerIndex(j *batchv1.Job) bool { return j.Spec.BackoffLimitPerIndex != nil }

func isTracked(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
}

// indexOf is a pod's completion index.
func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

// failuresOf are the failures of a pod's index before it, counted and ignored ones.
func failuresOf(p *corev1.Pod) (counted, ignored int32) {
	return number(p, batchv1.JobIndexFailureCountAnnotation), number(p, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func number(p *corev1.Pod, annotation string) int32 {
	n, err := strconv.ParseInt(p.Annotations[annotation], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}

// build makes the pod that a Job's template describes.
func build(j *batchv1.Job, n newPod) *corev1.Pod {
	p := pods.FromTemplate(&j.Spec.Template, j.Name, metav1.NewControllerRef(j, kind))
	if !isTracked(p) {
		p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if n.index == noIndex {
		return p
	}
	index := strconv.Itoa(n.index)
	p.GenerateName = indexPrefix(j.Name, index)
	p.Spec.Hostname = fmt.Sprintf("%s-%s", j.Name, index)
	p.Labels = with(p.Labels, batchv1.JobCompletionIndexAnnotation, index)
	p.Annotations = with(p.Annotations, batchv1.JobCompletionIndexAnnotation, index)
	if isPerIndex(j) {
		countFailures(j, p, n.replaces)
	}
	tellIndex(p.Spec.InitContainers)
	tellIndex(p.Spec.Containers)
	return p
}

func indexPrefix(job, index string) string {
	end := "-" + index + "-"
	return job[:min(len(job), longestPrefix-len(end))] + end
}

func with(m map[string]string, key, value string) map[string]string {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}

// countFailures hands an index's failures on from a pod to the one in its place.
func countFailures(j *batchv1.Job, p, before *corev1.Pod) {
	var counted, ignored int32
	if before != nil {
		counted, ignored = failuresOf(before)
		if judgeFailure(j.Spec.PodFailurePolicy, before).ignored {
			ignored++
		} else {
			counted++
		}
	}
	p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(counted))
	if ignored > 0 {
		p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
	}
}

// tellIndex gives containers their index unless the user has set the variable.
func tellIndex(containers []corev1.Container) {
	for i := range containers {
		c := &containers[i]
		if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == indexVariable }) {
			continue
		}
		c.Env = append(c.Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
		}})
	}
}
