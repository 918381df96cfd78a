package scheduler

import (
	"cmp"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/pods"
)

// podState is a pod that takes room on a node.
type podState struct {
	pod      *corev1.Pod
	requests amounts
	affinity podAffinity
	assumed  bool // it was decided here and the API has not said so yet
}

// nodeState is a node with what runs there. Decisions read it, only state
// changes it.
type nodeState struct {
	node        *corev1.Node // nil while only its pods are known
	allocatable amounts
	ownPorts    []int32 // of the cluster's programs, TCP
	pods        map[types.UID]*podState
	withRules   map[types.UID]*podState // those of pods that have rules about others
	owned       map[types.UID]int       // how many each controller has here, without those that are ending
	requested   amounts
	counted     amounts // requested, with a minimum for each pod, for scores
}

func newNodeState() *nodeState {
	return &nodeState{pods: map[types.UID]*podState{}, withRules: map[types.UID]*podState{}, owned: map[types.UID]int{}}
}

func (n *nodeState) add(p *podState) {
	n.pods[p.pod.UID] = p
	if !p.affinity.empty() {
		n.withRules[p.pod.UID] = p
	}
	n.own(p.pod, 1)
	n.requested.add(p.requests, 1)
	n.counted.add(atLeast(p.requests), 1)
}

func (n *nodeState) remove(p *podState) {
	delete(n.pods, p.pod.UID)
	delete(n.withRules, p.pod.UID)
	n.own(p.pod, -1)
	n.requested.add(p.requests, -1)
	n.counted.add(atLeast(p.requests), -1)
}

func (n *nodeState) own(pod *corev1.Pod, sign int) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || pod.DeletionTimestamp != nil {
		return
	}
	if n.owned[ref.UID] += sign; n.owned[ref.UID] == 0 {
		delete(n.owned, ref.UID)
	}
}

func atLeast(a amounts) amounts {
	return amounts{cpu: max(a.cpu, defaultMilliCPU), memory: max(a.memory, defaultMemory)}
}

// with is the node as it would be with pods that are about to come.
func (n *nodeState) with(more []*podState) *nodeState {
	out := n.without(nil)
	for _, p := range more {
		if _, there := out.pods[p.pod.UID]; !there {
			out.add(p)
		}
	}
	return out
}

// without is the node as it would be if some of its pods were gone.
func (n *nodeState) without(gone []*podState) *nodeState {
	out := newNodeState()
	out.node, out.allocatable = n.node, n.allocatable
	for _, p := range n.pods {
		out.add(p)
	}
	for _, p := range gone {
		out.remove(p)
	}
	return out
}

// state is what the scheduler knows of nodes and pods, changed by the caches'
// handlers and by its own decisions.
type state struct {
	cluster link.ClusterConfig

	mu    sync.Mutex
	nodes map[string]*nodeState
	// listed are those that the API knows, by their names.
	listed []*nodeState
	// turn is where in the list the next decision begins, so that what is not looked at changes (see enough).
	turn  int
	where map[types.UID]string // of every pod that takes room
	// nominated pods wait on a node for victims to end.
	nominated map[types.UID]*corev1.Pod
}

func newState(cluster link.ClusterConfig) *state {
	return &state{cluster: cluster, nodes: map[string]*nodeState{}, where: map[types.UID]string{}, nominated: map[types.UID]*corev1.Pod{}}
}

func (s *state) node(name string) *nodeState {
	n := s.nodes[name]
	if n == nil {
		n = newNodeState()
		s.nodes[name] = n
	}
	return n
}

// find looks a node up in the list. mu is held.
func (s *state) find(name string) (at int, ok bool) {
	return slices.BinarySearchFunc(s.listed, name, func(n *nodeState, name string) int { return cmp.Compare(n.node.Name, name) })
}

func (s *state) setNode(node *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(node.Name)
	if at, ok := s.find(node.Name); !ok {
		s.listed = slices.Insert(s.listed, at, n)
	}
	n.node = node
	n.allocatable = amountsOf(node.Status.Allocatable)
	n.ownPorts = s.cluster.OwnPorts(func(address string) bool {
		return slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool { return a.Address == address })
	})
}

func (s *state) dropNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node(name)
	if at, ok := s.find(name); ok {
		s.listed = slices.Delete(s.listed, at, at+1)
	}
	n.node = nil
	if len(n.pods) == 0 {
		delete(s.nodes, name)
	}
}

// setPod takes in a pod as the API knows it; it takes room when it is bound and
// not finished.
func (s *state) setPod(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod.Spec.NodeName == "" {
		if pod.Status.NominatedNodeName != "" {
			s.nominated[pod.UID] = pod
		} else {
			delete(s.nominated, pod.UID)
		}
		return // an assumed one keeps its room until the API knows
	}
	delete(s.nominated, pod.UID)
	s.free(pod.UID)
	if pods.IsFinished(pod) {
		return
	}
	s.node(pod.Spec.NodeName).add(&podState{pod: pod, requests: requestsOf(pod), affinity: affinityOf(pod)})
	s.where[pod.UID] = pod.Spec.NodeName
}

func (s *state) dropPod(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nominated, uid)
	s.free(uid)
}

func (s *state) free(uid types.UID) {
	name, ok := s.where[uid]
	if !ok {
		return
	}
	delete(s.where, uid)
	n := s.nodes[name]
	n.remove(n.pods[uid])
	if n.node == nil && len(n.pods) == 0 {
		delete(s.nodes, name)
	}
}

// assumeLocked gives a pod its room on a node before the API knows. mu is held.
func (s *state) assumeLocked(p *candidate, node string) {
	s.free(p.pod.UID)
	pod := p.pod.DeepCopy()
	pod.Spec.NodeName = node
	s.node(node).add(&podState{pod: pod, requests: p.requests, affinity: p.affinity, assumed: true})
	s.where[pod.UID] = node
	delete(s.nominated, pod.UID)
}

// forget takes an assumption back.
func (s *state) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(uid)
}

func (s *state) forgetLocked(uid types.UID) {
	if name, ok := s.where[uid]; ok && s.nodes[name].pods[uid].assumed {
		s.free(uid)
	}
}

// has says whether a pod takes room on a node, which the API may not know yet.
func (s *state) has(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.where[uid]
	return ok
}

func (s *state) nominate(pod *corev1.Pod, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod = pod.DeepCopy()
	pod.Status.NominatedNodeName = node
	s.nominated[pod.UID] = pod
}

// waitingFor gives the pods of no less priority that were promised room on a node. mu is held.
func (s *state) waitingFor(p *candidate) func(string) []*podState {
	if len(s.nominated) == 0 {
		return func(string) []*podState { return nil }
	}
	priority := schedulinghelper.PodPriority(p.pod)
	return func(node string) (out []*podState) {
		for uid, pod := range s.nominated {
			if uid != p.pod.UID && pod.Status.NominatedNodeName == node && schedulinghelper.PodPriority(pod) >= priority {
				out = append(out, &podState{pod: pod, requests: requestsOf(pod), affinity: affinityOf(pod)})
			}
		}
		return out
	}
}

// endingFor says that a pod that was preempted is still on its way out of the
// node that was promised to this one. mu is held.
func (s *state) endingFor(p *candidate) bool {
	promised := p.pod.Status.NominatedNodeName
	n, ok := s.nodes[promised]
	if promised == "" || !ok {
		return false
	}
	for _, other := range n.pods {
		c := pods.Condition(other.pod, corev1.DisruptionTarget)
		preempted := c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		if preempted && other.pod.DeletionTimestamp != nil && schedulinghelper.PodPriority(other.pod) < schedulinghelper.PodPriority(p.pod) {
			return true
		}
	}
	return false
}
