package deployment

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// maxHistory bounds the list of revisions that a ReplicaSet remembers, in characters.
const maxHistory = 2000

// roll takes one step of a rolling update: make the new set, or grow it, or
// shrink the old ones.
func (p *planner) roll() {
	if p.current == nil {
		p.make(p.room(0))
		return
	}
	if p.growNew() || p.shrinkOld() {
		p.describe(true)
		return
	}
	p.finish()
}

// room is how large the new set may be now, given its present size.
func (p *planner) room(size int32) int32 {
	wanted := *p.d.Spec.Replicas
	if !isRolling(p.d) {
		return wanted
	}
	surge, _ := bounds(p.d)
	free := wanted + surge - sum(p.all(), holds)
	if free <= 0 || !p.settled() {
		return size
	}
	return size + min(free, wanted-size)
}

// holds is how many pods a set has or is to have: one that was told to shrink
// may not have done so yet.
func holds(rs *appsv1.ReplicaSet) int32 { return max(*rs.Spec.Replicas, rs.Status.Replicas) }

// settled says that the old sets have taken notice of their sizes, so that what
// they say of their pods can be relied upon.
func (p *planner) settled() bool {
	for _, rs := range p.old {
		if rs.Status.ObservedGeneration < rs.Generation {
			return false
		}
	}
	return true
}

func (p *planner) growNew() bool {
	size, wanted := *p.current.Spec.Replicas, *p.d.Spec.Replicas
	switch {
	case size == wanted:
		return false
	case size > wanted:
		return p.scale(p.current, wanted, false)
	}
	return p.scale(p.current, p.room(size), false)
}

// shrinkOld takes pods from old sets: first those that are not available, then
// as many as availability allows.
func (p *planner) shrinkOld() bool {
	old := active(p.old)
	if len(old) == 0 {
		return false
	}
	_, unavailable := bounds(p.d)
	least := *p.d.Spec.Replicas - unavailable
	// Pods of the new set that are not available yet must not be made up for
	// twice: what they lack is taken off what the old sets may lose.
	newMissing := *p.current.Spec.Replicas - p.current.Status.AvailableReplicas
	spare := sum(p.all(), wantedReplicas) - least - newMissing
	if spare <= 0 {
		return false
	}
	shrunk := p.dropUnavailable(old, spare)
	extra := sum(append(active(p.old), p.current), stillAvailable) - least
	for _, rs := range old {
		if extra <= 0 {
			break
		}
		n := min(*rs.Spec.Replicas, extra)
		extra -= n
		shrunk = p.scale(rs, *rs.Spec.Replicas-n, false) || shrunk
	}
	return shrunk
}

// stillAvailable does not count on pods that a set was already told to give up,
// though its status may not say so yet.
func stillAvailable(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
}

func (p *planner) dropUnavailable(old []*appsv1.ReplicaSet, spare int32) bool {
	dropped := false
	for _, rs := range old {
		n := min(spare, *rs.Spec.Replicas-rs.Status.AvailableReplicas)
		if n <= 0 {
			continue
		}
		spare -= n
		dropped = p.scale(rs, *rs.Spec.Replicas-n, false) || dropped
	}
	return dropped
}

// recreate stops all old pods before it starts a new one.
func (p *planner) recreate() {
	shrunk := false
	for _, rs := range active(p.old) {
		shrunk = p.scale(rs, 0, false) || shrunk
	}
	if shrunk || sum(p.old, actualReplicas) > 0 || p.oldPods(p.current) {
		p.describe(true)
		return
	}
	if p.current == nil {
		p.make(*p.d.Spec.Replicas)
		return
	}
	if p.scale(p.current, *p.d.Spec.Replicas, false) {
		p.describe(true)
		return
	}
	p.finish()
}

func (p *planner) finish() {
	if complete(p.d, p.d.Status) {
		p.cleanUp()
	}
	p.describe(true)
}

// make plans the ReplicaSet of the present template.
func (p *planner) make(size int32) {
	rs := newSet(p.d, size)
	annotate(p.d, rs, maxRevision(p.old)+1)
	surge, _ := bounds(p.d)
	rememberSize(rs, *p.d.Spec.Replicas, surge)
	p.plan.create = rs
	p.plan.revision = rs.Annotations[revisionAnnotation]
	if hasDeadline(p.d) {
		p.progressing(corev1.ConditionTrue, newReplicaSet, fmt.Sprintf("Created new replica set %q", rs.Name))
	}
	p.describe(false)
}

func newSet(d *appsv1.Deployment, size int32) *appsv1.ReplicaSet {
	template := *d.Spec.Template.DeepCopy()
	hash := pods.TemplateHash(&template, d.Status.CollisionCount)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(d.Name, hash),
			Namespace:       d.Namespace,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &size, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: template},
	}
}

func setName(deployment, hash string) string {
	room := validation.DNS1123SubdomainMaxLength - len(hash) - 1
	return deployment[:min(len(deployment), room)] + "-" + hash
}

// notCopied are annotations that belong to one of the two objects alone.
var notCopied = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	historyAnnotation:                  true,
	desiredAnnotation:                  true,
	maxAnnotation:                      true,
	appsv1.DeprecatedRollbackTo:        true,
}

// annotate copies the Deployment's annotations to its ReplicaSet and raises the
// set's revision; what it was before goes to its history.
func annotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision int64) bool {
	changed := false
	for k, v := range d.Annotations {
		if !notCopied[k] {
			changed = setAnnotation(rs, k, v) || changed
		}
	}
	before, had := rs.Annotations[revisionAnnotation]
	if n, err := strconv.ParseInt(before, 10, 64); (before != "" && err != nil) || n >= revision {
		return changed
	}
	setAnnotation(rs, revisionAnnotation, strconv.FormatInt(revision, 10))
	if had {
		setAnnotation(rs, historyAnnotation, appendHistory(rs.Annotations[historyAnnotation], before))
	}
	return true
}

func appendHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	history += "," + revision
	for len(history) > maxHistory {
		_, rest, more := strings.Cut(history, ",")
		if !more {
			break
		}
		history = rest
	}
	return history
}
