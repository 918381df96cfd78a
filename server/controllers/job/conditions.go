package job

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

func condition(all []batchv1.JobCondition, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range all {
		if all[i].Type == t {
			return &all[i]
		}
	}
	return nil
}

// met gives the condition of a type if it is true.
func met(j *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	if c := condition(j.Status.Conditions, t); c != nil && c.Status == corev1.ConditionTrue {
		return c
	}
	return nil
}

// Finished gives the condition, Complete or Failed, with which a Job has ended, or nil.
func Finished(j *batchv1.Job) *batchv1.JobCondition {
	for i, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}

func newCondition(t batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	at := metav1.NewTime(now)
	return &batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastProbeTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}

// setCondition replaces the condition of its type and says whether that changed
// anything. One that is false is not begun with.
func setCondition(s *batchv1.JobStatus, c *batchv1.JobCondition) bool {
	now := condition(s.Conditions, c.Type)
	switch {
	case now == nil && c.Status == corev1.ConditionFalse:
		return false
	case now == nil:
		s.Conditions = append(s.Conditions, *c)
		return true
	case now.Status == c.Status && now.Reason == c.Reason && now.Message == c.Message:
		return false
	}
	*now = *c
	return true
}
