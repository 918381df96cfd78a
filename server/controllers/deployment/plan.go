package deployment

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// observed is what a plan is made from. The plan changes none of it.
type observed struct {
	deployment *appsv1.Deployment
	sets       []*appsv1.ReplicaSet // those that it controls
	// oldPods says that a pod of an earlier template may still run; only
	// Recreate asks for it.
	oldPods func(current *appsv1.ReplicaSet) bool
	now     time.Time
}

// plan is one step from observed towards wanted, in the order in which it is to
// be done, and the status that describes it.
type plan struct {
	create   *appsv1.ReplicaSet
	update   []change
	delete   []*appsv1.ReplicaSet
	revision string // the Deployment's own annotation; empty leaves it
	status   appsv1.DeploymentStatus
	wake     time.Duration // look again after this; zero: only after a change
}

// change is a ReplicaSet as it should be, and the size that it had.
type change struct {
	set  *appsv1.ReplicaSet
	from int32
}

// planner works on copies of what was observed.
type planner struct {
	d       *appsv1.Deployment
	current *appsv1.ReplicaSet // of the present template; nil if there is none yet
	old     []*appsv1.ReplicaSet
	oldPods func(*appsv1.ReplicaSet) bool
	now     time.Time
	touched map[*appsv1.ReplicaSet]int32 // changed sets and their former size
	plan    plan
}

// decide makes the plan.
func decide(o observed) plan {
	p := &planner{d: o.deployment.DeepCopy(), oldPods: o.oldPods, now: o.now, touched: map[*appsv1.ReplicaSet]int32{}}
	sets := make([]*appsv1.ReplicaSet, 0, len(o.sets))
	for _, rs := range o.sets {
		sets = append(sets, rs.DeepCopy())
	}
	p.current, p.old = split(p.d, sets)
	p.step()
	for _, rs := range p.all() {
		if from, ok := p.touched[rs]; ok {
			p.plan.update = append(p.plan.update, change{set: rs, from: from})
		}
	}
	return p.plan
}

func (p *planner) all() []*appsv1.ReplicaSet {
	if p.current == nil {
		return slices.Clone(p.old)
	}
	return append(slices.Clone(p.old), p.current)
}

func (p *planner) step() {
	if p.d.DeletionTimestamp != nil {
		p.describe(false)
		return
	}
	p.notePause()
	p.syncRevision()
	switch {
	case p.d.Spec.Paused:
		p.resize()
		p.cleanUp()
		p.describe(false)
	case p.wasResized():
		p.resize()
		p.describe(false)
	case isRolling(p.d):
		p.roll()
	default:
		p.recreate()
	}
}

// syncRevision gives the present ReplicaSet the next revision unless it has it,
// copies the Deployment's annotations to it, and its revision back.
func (p *planner) syncRevision() {
	rs := p.current
	if rs == nil {
		return
	}
	changed := annotate(p.d, rs, maxRevision(p.old)+1)
	if rs.Spec.MinReadySeconds != p.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds = p.d.Spec.MinReadySeconds
		changed = true
	}
	if changed {
		p.touch(rs)
	}
	p.plan.revision = rs.Annotations[revisionAnnotation]
	if hasDeadline(p.d) && condition(p.d.Status, appsv1.DeploymentProgressing) == nil {
		p.progressing(corev1.ConditionTrue, foundReplicaSet, fmt.Sprintf("Found new replica set %q", rs.Name))
	}
}

func (p *planner) touch(rs *appsv1.ReplicaSet) {
	if _, ok := p.touched[rs]; !ok {
		p.touched[rs] = *rs.Spec.Replicas
	}
}

// scale sets a size and what the ReplicaSet remembers of the Deployment's. The
// memory alone is only renewed when asked for.
func (p *planner) scale(rs *appsv1.ReplicaSet, size int32, remember bool) bool {
	resized := *rs.Spec.Replicas != size
	if !resized && !remember {
		return false
	}
	surge, _ := bounds(p.d)
	if remembered := rememberSize(rs, *p.d.Spec.Replicas, surge); !resized && !remembered {
		return false
	}
	p.touch(rs)
	rs.Spec.Replicas = &size
	return resized
}

// wasResized says that the Deployment's size changed since its ReplicaSets were
// last scaled.
func (p *planner) wasResized() bool {
	for _, rs := range active(p.all()) {
		if desired, ok := numberIn(rs, desiredAnnotation); ok && desired != *p.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// resize follows the Deployment's size without moving a rollout that is under
// way: each ReplicaSet gets its share of the difference.
func (p *planner) resize() {
	wanted := *p.d.Spec.Replicas
	running := active(p.all())
	switch {
	case len(running) == 1:
		p.scale(running[0], p.alone(running[0]), true)
		return
	case len(running) == 0:
		if newest := p.newest(); newest != nil {
			p.scale(newest, wanted, true)
		}
		return
	case p.saturated():
		for _, rs := range active(p.old) {
			p.scale(rs, 0, false)
		}
		return
	case !isRolling(p.d):
		return
	}
	surge, _ := bounds(p.d)
	allowed := int32(0)
	if wanted > 0 {
		allowed = wanted + surge
	}
	p.share(running, allowed-sum(running, wantedReplicas))
}

// alone is the size of the only set that is to have pods. In a rolling update
// it leaves room for pods of the others that are on their way out.
func (p *planner) alone(rs *appsv1.ReplicaSet) int32 {
	wanted, size := *p.d.Spec.Replicas, *rs.Spec.Replicas
	if !isRolling(p.d) || wanted <= size {
		return wanted
	}
	surge, _ := bounds(p.d)
	leaving := sum(p.all(), holds) - holds(rs)
	return max(size, min(wanted, wanted+surge-leaving))
}

// share spreads a difference over ReplicaSets in proportion to their sizes; the
// largest takes what rounding leaves.
func (p *planner) share(sets []*appsv1.ReplicaSet, difference int32) {
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		younger := byAge(b, a)
		if difference < 0 {
			younger = -younger
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), younger)
	})
	sizes := make([]int32, len(sets))
	left := difference
	for i, rs := range sets {
		part := p.fraction(rs)
		if difference > 0 {
			part = max(min(part, left), 0)
		} else {
			part = min(max(part, left), 0)
		}
		sizes[i] = *rs.Spec.Replicas + part
		left -= part
	}
	for i, rs := range sets {
		if i == 0 {
			sizes[0] = max(sizes[0]+left, 0)
		}
		p.scale(rs, sizes[i], true)
	}
}

// fraction is how much a ReplicaSet would grow or shrink if it kept its part of
// the whole.
func (p *planner) fraction(rs *appsv1.ReplicaSet) int32 {
	if *p.d.Spec.Replicas == 0 {
		return -*rs.Spec.Replicas
	}
	surge, _ := bounds(p.d)
	whole := *p.d.Spec.Replicas + surge
	before, ok := numberIn(rs, maxAnnotation)
	if !ok || before == 0 {
		before = p.d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	size := float64(*rs.Spec.Replicas) * float64(whole) / float64(before)
	return int32(math.Round(size)) - *rs.Spec.Replicas
}

// newest is the ReplicaSet that grows when none has pods.
func (p *planner) newest() *appsv1.ReplicaSet {
	if p.current != nil || len(p.old) == 0 {
		return p.current
	}
	return p.old[len(p.old)-1]
}

// saturated says that the present ReplicaSet has all pods and all are available.
func (p *planner) saturated() bool {
	rs, wanted := p.current, *p.d.Spec.Replicas
	if rs == nil {
		return false
	}
	desired, ok := numberIn(rs, desiredAnnotation)
	return ok && desired == wanted && *rs.Spec.Replicas == wanted && rs.Status.AvailableReplicas == wanted
}

// cleanUp deletes the oldest empty ReplicaSets beyond the history limit.
func (p *planner) cleanUp() {
	limit := p.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	var alive []*appsv1.ReplicaSet
	for _, rs := range p.old {
		if rs.DeletionTimestamp == nil {
			alive = append(alive, rs)
		}
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	for _, rs := range alive[:max(len(alive)-int(*limit), 0)] {
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			p.plan.delete = append(p.plan.delete, rs)
		}
	}
}

func setAnnotation(rs *appsv1.ReplicaSet, key, value string) bool {
	if rs.Annotations[key] == value {
		return false
	}
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[key] = value
	return true
}

// rememberSize writes down for which size of the Deployment a ReplicaSet was scaled.
func rememberSize(rs *appsv1.ReplicaSet, replicas, surge int32) bool {
	a := setAnnotation(rs, desiredAnnotation, strconv.Itoa(int(replicas)))
	b := setAnnotation(rs, maxAnnotation, strconv.Itoa(int(replicas+surge)))
	return a || b
}

func metaTime(t time.Time) metav1.Time { return metav1.NewTime(t) }
