package daemonset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/revisions"
)

// observed is a DaemonSet with all that a decision reads.
type observed struct {
	ds      *appsv1.DaemonSet
	pods    []*corev1.Pod
	nodes   []*corev1.Node
	history []*appsv1.ControllerRevision // sorted
	// current is the present template, duplicates others of the same content.
	current    *appsv1.ControllerRevision
	duplicates []*appsv1.ControllerRevision
	collisions *int32
	// patience is how long a failed pod of a node is left; zero: not any more.
	patience func(node string) time.Duration
	now      time.Time
}

// ended is a pod that will not run again, on a node that needs one that does.
type ended struct {
	pod  *corev1.Pod
	node string
}

// plan is what one reconcile does.
type plan struct {
	create  []string // names of nodes
	delete  []*corev1.Pod
	ended   []ended // deleted too, and told of
	relabel []*corev1.Pod
	hash    string
	status  appsv1.DaemonSetStatus
	surplus []*appsv1.ControllerRevision
	wake    time.Duration
}

func (p *plan) idle() bool { return len(p.create)+len(p.delete)+len(p.ended) == 0 }

// place is a node with the DaemonSet's pods on it.
type place struct {
	name        string
	exists      bool // pods may be meant for a node that is gone
	start, stay bool
	pods        []*corev1.Pod // those on the node first, then the oldest first
}

type planner struct {
	observed
	plan
	places []*place // by name
}

// hashOf is what a revision's pods are labelled with.
func hashOf(r *appsv1.ControllerRevision) string {
	return cmp.Or(r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], r.Name)
}

// decide compares nodes and pods.
func decide(o observed) plan {
	p := &planner{observed: o}
	p.hash = hashOf(o.current)
	p.survey()
	for _, at := range p.places {
		p.keep(at)
	}
	if p.idle() && o.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		p.rollOver()
	}
	p.count()
	p.tidy()
	if next := pods.NextAvailable(o.pods, o.ds.Spec.MinReadySeconds, o.now); next > 0 {
		p.wakeAfter(next)
	}
	return p.plan
}

func (p *planner) wakeAfter(d time.Duration) {
	if p.wake == 0 || d < p.wake {
		p.wake = d
	}
}

// survey puts the pods on their nodes. Those that have ended and are asked to
// go are somebody else's business, and stand in nobody's way.
func (p *planner) survey() {
	byName := map[string]*place{}
	fits := newFitter(p.ds)
	for _, node := range p.nodes {
		at := &place{name: node.Name, exists: true}
		at.start, at.stay = fits.fits(node)
		byName[node.Name] = at
		p.places = append(p.places, at)
	}
	for _, pod := range p.pods {
		name := nodeOf(pod)
		if name == "" || (pods.IsFinished(pod) && pod.DeletionTimestamp != nil) {
			continue
		}
		at := byName[name]
		if at == nil {
			at = &place{name: name}
			byName[name] = at
			p.places = append(p.places, at)
		}
		at.pods = append(at.pods, pod)
	}
	slices.SortFunc(p.places, func(a, b *place) int { return cmp.Compare(a.name, b.name) })
	for _, at := range p.places {
		slices.SortFunc(at.pods, func(a, b *corev1.Pod) int {
			return cmp.Or(
				boolCompare(b.Spec.NodeName != "", a.Spec.NodeName != ""),
				a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
				cmp.Compare(a.Name, b.Name),
			)
		})
	}
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// keep makes one place have the pods that it should.
func (p *planner) keep(at *place) {
	switch {
	case !at.exists:
		// Nobody else takes a pod away that never came to its node; those that
		// did go with the node.
		for _, pod := range at.pods {
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				p.delete = append(p.delete, pod)
			}
		}
	case at.start && len(at.pods) == 0:
		p.create = append(p.create, at.name)
	case at.stay:
		p.prune(at)
	default:
		for _, pod := range at.pods {
			if pod.DeletionTimestamp == nil {
				p.delete = append(p.delete, pod)
			}
		}
	}
}

// prune takes away what has ended and what is too many. Without a surge the
// next pod is made only when this one is gone.
func (p *planner) prune(at *place) {
	running := p.bury(at)
	switch {
	case !p.surges():
		p.deleteBut(running, p.best(running))
	case len(running) == 0:
		if at.start {
			p.create = append(p.create, at.name)
		}
	case len(running) > 1:
		p.pair(running)
	}
}

// bury deletes what has ended, failed pods not too often, and gives the rest.
func (p *planner) bury(at *place) (running []*corev1.Pod) {
	for _, pod := range at.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if wait := p.patience(at.name); wait > 0 {
				p.wakeAfter(wait)
				continue
			}
			p.ended = append(p.ended, ended{pod, at.name})
		case pod.Status.Phase == corev1.PodSucceeded:
			p.ended = append(p.ended, ended{pod, at.name})
		default:
			running = append(running, pod)
		}
	}
	return running
}

// pair leaves one old and one new pod on a node, and the old one only while it
// serves and the new one is not available.
func (p *planner) pair(running []*corev1.Pod) {
	var updated, old []*corev1.Pod
	for _, pod := range running {
		if pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash {
			updated = append(updated, pod)
		} else {
			old = append(old, pod)
		}
	}
	newer, older := p.best(updated), p.best(old)
	if newer != nil && older != nil && (!pods.IsReady(older) || p.isAvailable(newer)) {
		older = nil
	}
	p.deleteBut(running, newer, older)
}

// best is the first that is available, or the first. (Upstream keeps the first
// in any case: two rollouts that overtake each other then cost the one that serves.)
func (p *planner) best(all []*corev1.Pod) *corev1.Pod {
	if at := slices.IndexFunc(all, p.isAvailable); at >= 0 {
		return all[at]
	}
	if len(all) > 0 {
		return all[0]
	}
	return nil
}

func (p *planner) deleteBut(all []*corev1.Pod, kept ...*corev1.Pod) {
	for _, pod := range all {
		if !slices.Contains(kept, pod) {
			p.delete = append(p.delete, pod)
		}
	}
}

func (p *planner) isAvailable(pod *corev1.Pod) bool {
	return pods.IsAvailable(pod, p.ds.Spec.MinReadySeconds, p.now)
}

// isUpdated says that a pod is of the present template.
func (p *planner) isUpdated(pod *corev1.Pod) bool {
	generation := p.ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash ||
		generation != "" && pod.Labels[generationLabel] == generation
}

// tidy finds what the history has too much of: duplicates, after their pods
// have been given the hash that stays, and old revisions that no pod is of.
func (p *planner) tidy() {
	duplicate := map[string]bool{}
	for _, r := range p.duplicates {
		duplicate[hashOf(r)] = true
		p.surplus = append(p.surplus, r)
	}
	live := map[string]bool{}
	for _, pod := range p.pods {
		hash := pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
		live[hash] = true
		if duplicate[hash] {
			p.relabel = append(p.relabel, pod)
		}
	}
	if p.ds.Spec.RevisionHistoryLimit == nil {
		return
	}
	old := slices.DeleteFunc(slices.Clone(p.history), func(r *appsv1.ControllerRevision) bool {
		return r.Name == p.current.Name || duplicate[hashOf(r)]
	})
	used := func(r *appsv1.ControllerRevision) bool { return live[hashOf(r)] }
	p.surplus = append(p.surplus, revisions.Oldest(old, used, len(old)-int(*p.ds.Spec.RevisionHistoryLimit))...)
}
