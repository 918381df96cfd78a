package statefulset

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/revisions"
)

// observed is a set with all that a decision reads.
type observed struct {
	set     *appsv1.StatefulSet
	pods    []*corev1.Pod
	claim   func(name string) *corev1.PersistentVolumeClaim // nil for one that is not there
	history []*appsv1.ControllerRevision                    // sorted
	// current is what pods below the partition are made from, update the newest.
	current, update revision
	collisions      int32
	now             time.Time
}

// step is what is done about one pod, in the order of the fields.
type step struct {
	blocked error                           // why it cannot be done yet
	claims  []*corev1.PersistentVolumeClaim // to be made
	create  *corev1.Pod
	owners  []*corev1.PersistentVolumeClaim // whose owners are put right
	foreign []string                        // claims that another controller has
	update  *corev1.Pod                     // with its identity put right
	delete  *corev1.Pod
}

func (s step) pod() *corev1.Pod {
	for _, p := range []*corev1.Pod{s.create, s.update, s.delete} {
		if p != nil {
			return p
		}
	}
	return nil
}

// plan is what one reconcile does.
type plan struct {
	steps []step
	// together says that no step waits for another.
	together bool
	status   appsv1.StatefulSetStatus
	surplus  []*appsv1.ControllerRevision
	wake     time.Duration
}

type planner struct {
	observed
	plan
	replicas  []*corev1.Pod // by ordinal; those that are to be made have no UID
	condemned []*corev1.Pod // those without a place, the highest ordinal first
	broken    *corev1.Pod   // the first that is not available
	doomed    map[*corev1.Pod]bool
}

// decide compares the pods with the set's places.
func decide(o observed) plan {
	p := &planner{observed: o, doomed: map[*corev1.Pod]bool{}}
	p.together = o.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
	p.place()
	p.count()
	if o.set.DeletionTimestamp == nil {
		p.run()
	}
	p.complete()
	p.surplus = p.oldHistory()
	p.wake = pods.NextAvailable(o.pods, o.set.Spec.MinReadySeconds, o.now)
	return p.plan
}

// place sorts the pods to their places and fills empty ones with pods to be made.
func (p *planner) place() {
	first := firstOrdinal(p.set)
	p.replicas = make([]*corev1.Pod, *p.set.Spec.Replicas)
	for _, pod := range p.pods {
		switch n := ordinalOf(pod); {
		case wanted(p.set, n):
			p.replicas[n-first] = pod
		case n >= 0:
			p.condemned = append(p.condemned, pod)
		}
	}
	for i := range p.replicas {
		if p.replicas[i] == nil {
			p.replicas[i] = newPod(p.set, p.revisionFor(first+i), first+i)
		}
	}
	slices.SortFunc(p.condemned, func(a, b *corev1.Pod) int { return ordinalOf(b) - ordinalOf(a) })
	lowest := slices.Clone(p.condemned)
	slices.Reverse(lowest)
	for _, pod := range append(slices.Clone(p.replicas), lowest...) {
		if p.broken == nil && p.isAway(pod) {
			p.broken = pod
		}
	}
}

// revisionFor says what a new pod is made from: below the partition, and while
// a rollout without one has not come so far, from what the set was before.
func (p *planner) revisionFor(ordinal int) revision {
	u := p.set.Spec.UpdateStrategy
	below := firstOrdinal(p.set)
	switch {
	case u.RollingUpdate != nil && u.RollingUpdate.Partition != nil:
		below += int(*u.RollingUpdate.Partition)
	case u.Type == appsv1.RollingUpdateStatefulSetStrategyType:
		below += int(p.set.Status.CurrentReplicas)
	}
	if ordinal < below {
		return p.current
	}
	return p.update
}

func (p *planner) isAvailable(pod *corev1.Pod) bool {
	return pods.IsAvailable(pod, p.set.Spec.MinReadySeconds, p.now)
}

// isAway says that the pod does not serve, or will stop to.
func (p *planner) isAway(pod *corev1.Pod) bool {
	return !p.isAvailable(pod) || pod.DeletionTimestamp != nil
}

func isServing(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && pods.IsReady(pod)
}

// run does places first, then what has none, then the rollout. In an ordered
// set the first pod that must be waited for ends it.
func (p *planner) run() {
	if p.each(p.replicas, p.keep) && p.each(p.condemned, p.disown) && p.each(p.condemned, p.dismiss) {
		p.rollOver()
	}
}

func (p *planner) each(all []*corev1.Pod, do func(*corev1.Pod) (goOn bool)) bool {
	for _, pod := range all {
		if !do(pod) && !p.together {
			return false
		}
	}
	return true
}

func (p *planner) delete(pod *corev1.Pod) {
	p.doomed[pod] = true
	p.steps = append(p.steps, step{delete: pod})
}

// keep makes the pod of a place be there and be as it should.
func (p *planner) keep(pod *corev1.Pod) (goOn bool) {
	switch {
	case pods.IsFinished(pod): // however it ended: a place is never done
		if pod.DeletionTimestamp == nil {
			p.delete(pod)
		}
		return false
	case pod.UID == "":
		p.create(pod)
		return false
	}
	if pod.Status.Phase == corev1.PodPending {
		s := p.missingClaims(pod)
		s.owners, s.foreign = p.wrongOwners(pod)
		if s.blocked != nil || len(s.claims)+len(s.owners) > 0 {
			p.steps = append(p.steps, s)
		}
		if s.blocked != nil {
			return false
		}
	}
	if !p.together && (pod.DeletionTimestamp != nil || !isServing(pod) || !p.isAvailable(pod)) {
		return false
	}
	p.mend(pod)
	return true
}

func (p *planner) create(pod *corev1.Pod) {
	if retention(p.set).WhenScaled == remove {
		for i := range p.set.Spec.VolumeClaimTemplates {
			claim := p.claim(claimName(p.set, &p.set.Spec.VolumeClaimTemplates[i], ordinalOf(pod)))
			if claim != nil && isStale(claim, pod, podKind) {
				return // it goes with the pod that had it; its deletion wakes the set
			}
		}
	}
	s := p.missingClaims(pod)
	s.create = pod
	s.owners, s.foreign = p.wrongOwners(pod)
	p.steps = append(p.steps, s)
}

// missingClaims is a step that makes the claims that a pod has not got; it is
// blocked by one that is about to go.
func (p *planner) missingClaims(pod *corev1.Pod) step {
	var s step
	for i := range p.set.Spec.VolumeClaimTemplates {
		claim := newClaim(p.set, &p.set.Spec.VolumeClaimTemplates[i], pod)
		switch there := p.claim(claim.Name); {
		case there == nil:
			claim.OwnerReferences = ownersOf(p.set, pod, claim).refs
			s.claims = append(s.claims, claim)
		case there.DeletionTimestamp != nil:
			s.blocked = fmt.Errorf("pvc %s is being deleted", claim.Name)
		}
	}
	return s
}

// wrongOwners gives the pod's claims whose owners are not what the policy says.
func (p *planner) wrongOwners(pod *corev1.Pod) (owners []*corev1.PersistentVolumeClaim, foreign []string) {
	for i := range p.set.Spec.VolumeClaimTemplates {
		claim := p.claim(claimName(p.set, &p.set.Spec.VolumeClaimTemplates[i], ordinalOf(pod)))
		if claim == nil {
			continue
		}
		o := ownersOf(p.set, pod, claim)
		if !o.changed {
			continue
		}
		if o.foreign {
			foreign = append(foreign, claim.Name)
		}
		claim = claim.DeepCopy()
		claim.OwnerReferences = o.refs
		owners = append(owners, claim)
	}
	return owners, foreign
}

// mend puts the labels, volumes and claims of a pod right.
func (p *planner) mend(pod *corev1.Pod) {
	var owners []*corev1.PersistentVolumeClaim
	var foreign []string
	if pod.Status.Phase != corev1.PodPending { // else they are right already
		owners, foreign = p.wrongOwners(pod)
	}
	right := isIdentified(pod) && hasClaims(p.set, pod)
	if right && len(owners) == 0 {
		return
	}
	s := step{owners: owners, foreign: foreign}
	if !right {
		fixed := pod.DeepCopy()
		identify(p.set, fixed)
		if !hasClaims(p.set, fixed) {
			attachClaims(p.set, fixed)
			missing := p.missingClaims(fixed)
			s.claims, s.blocked = missing.claims, missing.blocked
		}
		s.update = fixed
	}
	p.steps = append(p.steps, s)
}

// disown gives the claims of a pod without a place to it, if they are to go with it.
func (p *planner) disown(pod *corev1.Pod) (goOn bool) {
	if owners, foreign := p.wrongOwners(pod); len(owners) > 0 {
		p.steps = append(p.steps, step{owners: owners, foreign: foreign})
	}
	return true
}

// dismiss takes away a pod without a place; in an ordered set only while all
// others are well, or if it is itself the first that is not. One that has ended
// will not get well, and goes at once (upstream waits for it for ever).
func (p *planner) dismiss(pod *corev1.Pod) (goOn bool) {
	well := isServing(pod) && p.isAvailable(pod)
	switch {
	case pod.DeletionTimestamp != nil:
	case !p.together && !well && !pods.IsFinished(pod) && pod != p.broken:
	default:
		p.delete(pod)
	}
	return false
}

// rollOver takes pods of another revision away, the highest ordinal first; the
// next plans fill their places.
func (p *planner) rollOver() {
	if p.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return
	}
	partition, most := bounds(p.set)
	if p.together {
		p.rollTogether(partition, most)
		return
	}
	room := most - p.away()
	for i := len(p.replicas) - 1; i >= partition && room > 0; i-- {
		if pod := p.replicas[i]; p.isOld(pod) && pod.DeletionTimestamp == nil {
			p.replace(pod)
			room--
		}
	}
}

// rollTogether replaces old pods that are away already, which costs nothing,
// and as many others as may be away beside those.
func (p *planner) rollTogether(partition, most int) {
	room := most - p.away()
	for i := len(p.replicas) - 1; i >= partition; i-- {
		if pod := p.replicas[i]; p.isOld(pod) && pod.DeletionTimestamp == nil && !p.isAvailable(pod) {
			p.replace(pod)
		}
	}
	for i := len(p.replicas) - 1; i >= partition && room > 0; i-- {
		if pod := p.replicas[i]; p.isOld(pod) && !p.isAway(pod) {
			p.replace(pod)
			room--
		}
	}
}

func (p *planner) away() (n int) {
	for _, pod := range p.replicas {
		if p.isAway(pod) {
			n++
		}
	}
	return n
}

// isOld says that the pod is there and of another revision than the newest.
func (p *planner) isOld(pod *corev1.Pod) bool {
	return pod.UID != "" && !p.doomed[pod] && revisionOf(pod) != p.update.name
}

func (p *planner) replace(pod *corev1.Pod) {
	p.delete(pod)
	p.status.CurrentReplicas--
}

// bounds gives the index of the first place that is rolled over, and how many
// pods may be away at once.
func bounds(set *appsv1.StatefulSet) (partition, most int) {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 0, 1
	}
	if r.Partition != nil {
		partition = int(*r.Partition)
	}
	limit := intstr.ValueOrDefault(r.MaxUnavailable, intstr.FromInt32(1))
	most, err := intstr.GetScaledValueFromIntOrPercent(limit, int(*set.Spec.Replicas), false)
	if err != nil {
		most = 1 // the API lets nothing through that cannot be parsed
	}
	return partition, max(most, 1)
}

// oldHistory are the revisions beyond the limit that no pod is of.
func (p *planner) oldHistory() []*appsv1.ControllerRevision {
	if p.set.Spec.RevisionHistoryLimit == nil || *p.set.Spec.RevisionHistoryLimit < 0 {
		return nil
	}
	live := map[string]bool{p.current.name: true, p.update.name: true}
	for _, pod := range p.pods {
		live[revisionOf(pod)] = true
	}
	unused := 0
	for _, r := range p.history {
		if !live[r.Name] {
			unused++
		}
	}
	return revisions.Oldest(p.history, func(r *appsv1.ControllerRevision) bool { return live[r.Name] }, unused-int(*p.set.Spec.RevisionHistoryLimit))
}
