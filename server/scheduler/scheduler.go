package scheduler

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/events"
	"bramble.dev/server/controllers/pods"
)

// name is the scheduler that pods ask for unless they say otherwise.
const name = corev1.DefaultSchedulerName

// bindingsAtOnce bounds the bindings that are being written: they share commits.
const bindingsAtOnce = 16

// Config is what the scheduler reads and writes with.
type Config struct {
	Client kubernetes.Interface // of system:kube-scheduler
	Caches *cache.Set
	// Cluster says where the cluster's own programs listen: a pod gets none of their ports on their board.
	Cluster link.ClusterConfig
	Logger  *slog.Logger
}

type scheduler struct {
	Config
	events record.EventRecorder
	pods   *cache.Cache[corev1.Pod]
	nodes  *cache.Cache[corev1.Node]
	state  *state
	queue  *queue
	// platforms tells for which platforms an image is built, like "linux/arm64";
	// nothing if that is not known.
	platforms func(image string) []string

	binding chan struct{}
	wg      sync.WaitGroup
}

// Run schedules until ctx is done, and returns when all that it started has ended.
func Run(ctx context.Context, c Config) error {
	recorder := events.New()
	defer recorder.Close()
	s := newScheduler(c, recorder.For(name, c.Client))
	defer s.wg.Wait()
	for _, stop := range s.watch() {
		defer stop()
	}
	for {
		it, ok := s.queue.next(ctx)
		if !ok || ctx.Err() != nil {
			return ctx.Err()
		}
		s.schedule(ctx, it)
	}
}

func newScheduler(c Config, recorder record.EventRecorder) *scheduler {
	return &scheduler{
		Config: c, events: recorder, pods: c.Caches.Pods(), nodes: c.Caches.Nodes(),
		platforms: platformsFromNodes(c.Caches.Nodes()), state: newState(c.Cluster), queue: newQueue(), binding: make(chan struct{}, bindingsAtOnce),
	}
}

// watch feeds state and queue. Nodes come first, so that the first pods find them.
func (s *scheduler) watch() (stops []func()) {
	return []func(){
		s.nodes.OnChange(s.nodeChanged),
		s.pods.OnChange(s.podChanged),
		s.Caches.PersistentVolumeClaims().OnChange(func(cache.Change[corev1.PersistentVolumeClaim]) { s.queue.wake(needsVolumes) }),
		s.Caches.PersistentVolumes().OnChange(func(cache.Change[corev1.PersistentVolume]) { s.queue.wake(needsVolumes) }),
		s.Caches.StorageClasses().OnChange(func(cache.Change[storagev1.StorageClass]) { s.queue.wake(needsVolumes) }),
		s.Caches.OnKey(schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}, func(types.NamespacedName, []byte) { s.queue.wake(needsDevices) }),
	}
}

func needsVolumes(c cares) bool { return c.volumes }
func needsDevices(c cares) bool { return c.devices }
func needsOthers(c cares) bool  { return c.others }

func (s *scheduler) nodeChanged(change cache.Change[corev1.Node]) {
	if change.New == nil {
		s.state.dropNode(change.Old.Name)
		s.queue.wake(nil) // one place less may even out a spread, and the others were told of a node that is no more
		return
	}
	s.state.setNode(change.New)
	if change.Old == nil || nodeMayHelp(change.Old, change.New) {
		s.queue.wake(nil)
	}
}

func (s *scheduler) podChanged(change cache.Change[corev1.Pod]) {
	pod := change.New
	if pod == nil {
		held := s.state.has(change.Old.UID)
		s.state.dropPod(change.Old.UID)
		s.queue.remove(change.Old.UID)
		if held || change.Old.Spec.NodeName != "" || change.Old.Status.NominatedNodeName != "" {
			s.queue.wake(nil)
		}
		return
	}
	s.state.setPod(pod)
	switch {
	case pod.Spec.NodeName != "":
		s.queue.remove(pod.UID)
		ended := pods.IsFinished(pod) && (change.Old == nil || !pods.IsFinished(change.Old))
		if ended || change.Old != nil && requestsOf(pod).below(requestsOf(change.Old)) {
			s.queue.wake(nil)
		} else if change.Old == nil || change.Old.Spec.NodeName == "" {
			s.queue.wake(needsOthers)
		} else if !maps.Equal(change.Old.Labels, pod.Labels) {
			s.queue.wake(nil) // it may have been what somebody must keep away from
		}
	case !s.ours(pod):
		s.queue.remove(pod.UID)
		s.state.forget(pod.UID)
	case change.Old == nil || !s.ours(change.Old) || podMayFit(change.Old, pod):
		s.queue.add(pod, caresOf(pod))
	}
}

// ours says whether the pod waits for this scheduler.
func (s *scheduler) ours(pod *corev1.Pod) bool {
	return pod.Spec.SchedulerName == name && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil &&
		len(pod.Spec.SchedulingGates) == 0 && !pods.IsFinished(pod)
}

// caresOf says what may help a pod that fits nowhere: the coming of another pod
// helps only one that looks for company or for an even spread.
func caresOf(pod *corev1.Pod) cares {
	c := cares{others: len(affinityOf(pod).near) > 0 || len(pod.Spec.TopologySpreadConstraints) > 0, devices: len(pod.Spec.ResourceClaims) > 0}
	for i := range pod.Spec.Volumes {
		_, ok := link.ClaimOf(pod, &pod.Spec.Volumes[i])
		c.volumes = c.volumes || ok
	}
	return c
}

// schedule decides about one pod and starts what follows.
func (s *scheduler) schedule(ctx context.Context, it *item) {
	pod, ok := s.pods.Get(it.key.Namespace, it.key.Name)
	if !ok || pod.UID != it.uid || !s.ours(pod) {
		s.queue.remove(it.uid)
		return
	}
	p := newCandidate(pod)
	p.world = s
	p.platforms = map[string][]string{}
	for _, image := range imagesOf(pod) {
		p.platforms[image] = s.platforms(image)
	}
	var missing string
	if p.volumes, missing = volumesOf(pod, s); missing == "" {
		missing = s.claimsOf(ctx, pod)
	}

	d := s.choose(p, missing)
	switch {
	case d.node == "":
		s.refused(ctx, it, p, d)
	case len(p.volumes.unbound()) > 0:
		s.awaitVolumes(ctx, it, p, d.node)
	default:
		s.binding <- struct{}{}
		s.wg.Go(func() {
			defer func() { <-s.binding }()
			s.bind(ctx, it, p, d.node)
		})
	}
}

// choose decides while nothing else changes.
func (s *scheduler) choose(p *candidate, missing string) decision {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.forgetLocked(p.pod.UID) // the room that it held while its volumes were made
	nodes := s.state.listed
	if missing != "" && len(nodes) > 0 {
		no := map[string]*refusal{}
		for _, n := range nodes {
			no[n.node.Name] = never("Preemption is not helpful for scheduling")
		}
		return decision{advice: strings.TrimSpace(p.volumes.advice + " " + driverless(p, nodes)), message: strings.TrimSuffix(explain(len(nodes), nil), ":") + ": " + missing + ". preemption: " + explain(len(nodes), no)}
	}
	nominated := s.state.waitingFor(p)
	d := decide(p, nodes, s.state.turn, nominated)
	s.state.turn = (s.state.turn + d.looked) % max(len(nodes), 1)
	if d.node != "" {
		s.state.assumeLocked(p, d.node)
		return d
	}
	if len(nodes) == 0 {
		d.advice = "No board has joined this cluster yet (bramble token create)."
		return d
	}
	var why string
	if promised := p.pod.Status.NominatedNodeName; d.mayResolve(promised) && s.state.endingFor(p) {
		d.nominated = promised
		why = "preemption: not eligible due to a terminating pod on the nominated node."
	} else {
		d.victims, why = preempt(p, nodes, d.refusals, s.budgets(d), nominated)
	}
	if why != "" {
		d.message += " " + why
	}
	if d.victims == nil {
		d.advice = advice(p, nodes)
	}
	return d
}

// budgets are asked for only when a preemption may help.
func (s *scheduler) budgets(d decision) []*policyv1.PodDisruptionBudget {
	for _, r := range d.refusals {
		if r.resolvable {
			return s.Caches.PodDisruptionBudgets().List("", nil)
		}
	}
	return nil
}

// NamespaceLabels implements world.
func (s *scheduler) NamespaceLabels(namespace string) labels.Set {
	ns, ok := s.Caches.Namespaces().Get("", namespace)
	if !ok {
		return nil
	}
	return ns.Labels
}

// Claim, Volume, Volumes, Class and Used implement storage.
func (s *scheduler) Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return s.Caches.PersistentVolumeClaims().Get(namespace, name)
}

func (s *scheduler) Volume(name string) (*corev1.PersistentVolume, bool) {
	return s.Caches.PersistentVolumes().Get("", name)
}

func (s *scheduler) Volumes() []*corev1.PersistentVolume {
	return s.Caches.PersistentVolumes().List("", nil)
}

func (s *scheduler) Class(name string) (*storagev1.StorageClass, bool) {
	return s.Caches.StorageClasses().Get("", name)
}

func (s *scheduler) Used(claim *corev1.PersistentVolumeClaim, by *corev1.Pod) *corev1.Pod {
	for _, pod := range s.pods.List(claim.Namespace, nil) {
		if pod.UID != by.UID && (pod.Spec.NodeName != "" || s.state.has(pod.UID)) && !pods.IsFinished(pod) && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name
		}) {
			return pod
		}
	}
	return nil
}
