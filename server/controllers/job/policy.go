package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is what a Job's pod failure policy says of a failed pod.
type verdict struct {
	ignored   bool // not counted as a failure
	failIndex bool
	failJob   string // why, if the whole Job fails
}

// judgeFailure applies the first rule that matches; without one the failure counts.
func judgeFailure(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) verdict {
	if policy == nil {
		return verdict{}
	}
	for i, rule := range policy.Rules {
		why, ok := matches(rule, pod)
		if !ok {
			continue
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return verdict{ignored: true}
		case batchv1.PodFailurePolicyActionFailIndex:
			return verdict{failIndex: true}
		case batchv1.PodFailurePolicyActionFailJob:
			return verdict{failJob: fmt.Sprintf("%s matching %v rule at index %d", why, rule.Action, i)}
		case batchv1.PodFailurePolicyActionCount:
			return verdict{}
		}
	}
	return verdict{}
}

// matches says whether a rule is about a pod, and by what of it.
func matches(rule batchv1.PodFailurePolicyRule, pod *corev1.Pod) (why string, ok bool) {
	if codes := rule.OnExitCodes; codes != nil {
		for _, c := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
			if exitCodeMatches(codes, c) {
				return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v", c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode), true
			}
		}
		return "", false
	}
	for _, c := range pod.Status.Conditions {
		for _, wanted := range rule.OnPodConditions {
			if c.Type == wanted.Type && c.Status == wanted.Status {
				return fmt.Sprintf("Pod %s/%s has condition %v", pod.Namespace, pod.Name, c.Type), true
			}
		}
	}
	return "", false
}

func exitCodeMatches(codes *batchv1.PodFailurePolicyOnExitCodesRequirement, c corev1.ContainerStatus) bool {
	ended := c.State.Terminated
	if ended == nil || ended.ExitCode == 0 || codes.ContainerName != nil && *codes.ContainerName != c.Name {
		return false
	}
	named := slices.Contains(codes.Values, ended.ExitCode)
	switch codes.Operator {
	case batchv1.PodFailurePolicyOnExitCodesOpIn:
		return named
	case batchv1.PodFailurePolicyOnExitCodesOpNotIn:
		return !named
	}
	return false
}

// succeedsBy says by which rule of its success policy an Indexed Job has succeeded.
func succeedsBy(policy *batchv1.SuccessPolicy, completions int, done indexes) (why string, ok bool) {
	if policy == nil || len(done) == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		var met bool
		if rule.SucceededIndexes != nil {
			wanted := parseIndexes(*rule.SucceededIndexes, completions)
			have := done.common(wanted)
			met = len(wanted) > 0 && (have == wanted.count() || rule.SucceededCount != nil && have >= int(*rule.SucceededCount))
		} else {
			met = rule.SucceededCount != nil && done.count() >= int(*rule.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
