package deployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Reasons of conditions.
const (
	setUpdated       = "ReplicaSetUpdated"
	setCreateError   = "ReplicaSetCreateError"
	newReplicaSet    = "NewReplicaSetCreated"
	foundReplicaSet  = "FoundNewReplicaSet"
	newSetAvailable  = "NewReplicaSetAvailable"
	deadlineExceeded = "ProgressDeadlineExceeded"
	paused           = "DeploymentPaused"
	resumed          = "DeploymentResumed"
	enoughAvailable  = "MinimumReplicasAvailable"
	tooFewAvailable  = "MinimumReplicasUnavailable"
)

func condition(s appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces a condition unless status and reason stay as they are;
// the time of transition moves only with the status.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if now := condition(*s, c.Type); now != nil {
		if now.Status == c.Status && now.Reason == c.Reason {
			return
		}
		if now.Status == c.Status {
			c.LastTransitionTime = now.LastTransitionTime
		}
	}
	dropCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func dropCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(slices.Clone(s.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

func (p *planner) newCondition(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metaTime(p.now), LastTransitionTime: metaTime(p.now),
	}
}

func (p *planner) progressing(status corev1.ConditionStatus, reason, message string) {
	setCondition(&p.d.Status, p.newCondition(appsv1.DeploymentProgressing, status, reason, message))
}

// notePause marks a pause and its end, so that the time between them does not
// count as lack of progress.
func (p *planner) notePause() {
	if !hasDeadline(p.d) {
		return
	}
	now := condition(p.d.Status, appsv1.DeploymentProgressing)
	if now != nil && now.Reason == deadlineExceeded {
		return
	}
	marked := now != nil && now.Reason == paused
	switch {
	case p.d.Spec.Paused && !marked:
		p.progressing(corev1.ConditionUnknown, paused, "Deployment is paused")
	case !p.d.Spec.Paused && marked:
		p.progressing(corev1.ConditionUnknown, resumed, "Deployment is resumed")
	}
}

// complete says that all pods are of the present template and available.
func complete(d *appsv1.Deployment, s appsv1.DeploymentStatus) bool {
	wanted := *d.Spec.Replicas
	return s.UpdatedReplicas == wanted && s.Replicas == wanted && s.AvailableReplicas == wanted && s.ObservedGeneration >= d.Generation
}

// describe sets the plan's status; during a rollout it also judges progress.
func (p *planner) describe(rollout bool) {
	s := p.count()
	if rollout {
		p.judge(&s)
		p.plan.wake = p.deadline(s)
	}
	p.plan.status = s
}

func (p *planner) count() appsv1.DeploymentStatus {
	all := p.all()
	available := sum(all, availableReplicas)
	s := appsv1.DeploymentStatus{
		ObservedGeneration:  p.d.Generation,
		Replicas:            sum(all, actualReplicas),
		ReadyReplicas:       sum(all, readyReplicas),
		AvailableReplicas:   available,
		UnavailableReplicas: max(sum(all, wantedReplicas)-available, 0),
		TerminatingReplicas: terminatingReplicas(all),
		CollisionCount:      p.d.Status.CollisionCount,
		Conditions:          slices.Clone(p.d.Status.Conditions),
	}
	if p.current != nil {
		s.UpdatedReplicas = p.current.Status.Replicas
	}
	_, unavailable := bounds(p.d)
	if available >= *p.d.Spec.Replicas-unavailable {
		setCondition(&s, p.newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, enoughAvailable, "Deployment has minimum availability."))
	} else {
		setCondition(&s, p.newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, tooFewAvailable, "Deployment does not have minimum availability."))
	}
	return s
}

func (p *planner) judge(s *appsv1.DeploymentStatus) {
	if !hasDeadline(p.d) {
		dropCondition(s, appsv1.DeploymentProgressing)
	}
	before := condition(p.d.Status, appsv1.DeploymentProgressing)
	done := s.Replicas == s.UpdatedReplicas && before != nil && before.Reason == newSetAvailable
	if hasDeadline(p.d) && !done {
		p.judgeProgress(s, before)
	}
	if failure := p.failure(); failure != nil {
		setCondition(s, *failure)
	} else {
		dropCondition(s, appsv1.DeploymentReplicaFailure)
	}
}

func (p *planner) judgeProgress(s *appsv1.DeploymentStatus, before *appsv1.DeploymentCondition) {
	who := fmt.Sprintf("Deployment %q", p.d.Name)
	if p.current != nil {
		who = fmt.Sprintf("ReplicaSet %q", p.current.Name)
	}
	switch {
	case complete(p.d, *s):
		setCondition(s, p.newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, newSetAvailable, who+" has successfully progressed."))
	case progressed(p.d.Status, *s):
		// The time of the last progress is renewed even though the reason stays.
		c := p.newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, setUpdated, who+" is progressing.")
		if before != nil && before.Status == corev1.ConditionTrue {
			c.LastTransitionTime = before.LastTransitionTime
		}
		dropCondition(s, appsv1.DeploymentProgressing)
		setCondition(s, c)
	case p.timedOut(*s):
		setCondition(s, p.newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, deadlineExceeded, who+" has timed out progressing."))
	}
}

// progressed says that more is new, ready or available, or less is old, than before.
func progressed(before, after appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

func (p *planner) timedOut(s appsv1.DeploymentStatus) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	switch {
	case c == nil || c.Reason == newSetAvailable:
		return false
	case c.Reason == deadlineExceeded:
		return true
	}
	return c.LastUpdateTime.Add(p.patience()).Before(p.now)
}

func (p *planner) patience() time.Duration {
	return time.Duration(*p.d.Spec.ProgressDeadlineSeconds) * time.Second
}

// deadline is when a rollout that shows no progress has to be looked at again.
func (p *planner) deadline(s appsv1.DeploymentStatus) time.Duration {
	c := condition(s, appsv1.DeploymentProgressing)
	if !hasDeadline(p.d) || c == nil || complete(p.d, s) || c.Reason == deadlineExceeded || c.Reason == newSetAvailable {
		return 0
	}
	// A second more, because stored times have no fractions.
	return max(c.LastUpdateTime.Add(p.patience()).Sub(p.now), 0) + time.Second
}

// failure lifts a ReplicaSet's failure into the Deployment, the new set's first.
func (p *planner) failure() *appsv1.DeploymentCondition {
	for _, rs := range append([]*appsv1.ReplicaSet{p.current}, p.old...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}
