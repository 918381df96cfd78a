package scheduler

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
)

// node makes a ready node of so many CPUs and Gi.
func node(name string, cpu, memory int, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelArchStable: "arm64", corev1.LabelOSStable: "linux",
		}},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewQuantity(int64(cpu), resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity(int64(memory)<<30, resource.BinarySI),
				corev1.ResourcePods:   *resource.NewQuantity(10, resource.DecimalSI),
			},
		},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func pod(name string, cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Image: "web:1", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
		}}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

// meantFor is the affinity of a DaemonSet's pod.
func meantFor(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
			}}},
		}}}
	}
}
func priority(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &n }
}
func labelled(k, v string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[k] = v }
}

func stateOf(nodes []*corev1.Node, pods ...*corev1.Pod) *state {
	s := newState(link.ClusterConfig{})
	for _, n := range nodes {
		s.setNode(n)
	}
	for _, p := range pods {
		s.setPod(p)
	}
	return s
}

// ask decides as the scheduler does, with preemption.
func ask(s *state, p *corev1.Pod, platforms map[string][]string) decision {
	c := newCandidate(p)
	c.platforms = platforms
	nodes, nominated := s.listed, s.waitingFor(c)
	d := decide(c, nodes, 0, nominated)
	if d.node == "" && len(nodes) > 0 {
		var why string
		if d.victims, why = preempt(c, nodes, d.refusals, nil, nominated); why != "" {
			d.message += " " + why
		}
	}
	return d
}

func TestDecide(t *testing.T) {
	antiAffine := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, TopologyKey: corev1.LabelHostname,
		}}}}
	}
	affine := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, TopologyKey: "zone",
		}}}}
	}
	affineTwice := func(p *corev1.Pod) {
		affine(p)
		terms := &p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		*terms = append(*terms, corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "fast"}}, TopologyKey: corev1.LabelHostname})
	}
	fast := func(p *corev1.Pod) { p.Labels["tier"] = "fast" }
	db := func(p *corev1.Pod) { p.Labels["app"] = "db" }
	port := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
	}
	spread := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		}}
	}
	owner := func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: "rs", Controller: &yes}}
	}
	selecting := func(k, v string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} }
	}
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	}
	unready := func(n *corev1.Node) { n.Status.Conditions = nil }
	never := corev1.PreemptNever
	a, b := node("a", 4, 8), node("b", 4, 8)
	two := []*corev1.Node{a, b}
	for _, test := range []struct {
		name    string
		nodes   []*corev1.Node
		pods    []*corev1.Pod
		pod     *corev1.Pod
		node    string
		message string
		victims int
	}{
		{"an empty cluster", nil, nil, pod("p", "1"), "", noNodes, 0},
		{"the emptier node", two, []*corev1.Pod{pod("x", "3", on("a"))}, pod("p", "1"), "b", "", 0},
		{"too large for all", two, nil, pod("p", "5"), "", "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.", 0},
		{"no room now", two, []*corev1.Pod{pod("x", "3", on("a")), pod("y", "3", on("b"))}, pod("p", "2"), "",
			"0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.", 0},
		{"reasons are counted apart", []*corev1.Node{a, node("b", 4, 8, tainted), node("c", 4, 8, unready)}, []*corev1.Pod{pod("x", "4", on("a"))}, pod("p", "1"), "",
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.", 0},
		{"a daemon goes to its node, although another is emptier", two, []*corev1.Pod{pod("x", "3", on("a"))}, pod("p", "1", meantFor("a")), "a", "", 0},
		{"a daemon waits for its node", two, []*corev1.Pod{pod("x", "4", on("a"))}, pod("p", "1", meantFor("a")), "",
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.", 0},
		{"whatever is the matter with others", []*corev1.Node{a, node("b", 4, 8, tainted)}, []*corev1.Pod{pod("x", "4", on("a"))}, pod("p", "1", meantFor("a")), "",
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.", 0},
		{"a selector that nothing has", two, nil, pod("p", "1", selecting("disk", "ssd")), "",
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.", 0},
		{"a selector that one has", []*corev1.Node{a, node("b", 4, 8, labelled("disk", "ssd"))}, nil, pod("p", "1", selecting("disk", "ssd")), "b", "", 0},
		{"a host port that is taken", []*corev1.Node{a}, []*corev1.Pod{pod("x", "1", on("a"), port)}, pod("p", "1", port), "",
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.", 0},
		{"kept apart", two, []*corev1.Pod{pod("x", "1", on("a"))}, pod("p", "1", antiAffine), "b", "", 0},
		{"kept away by another's rule", two, []*corev1.Pod{pod("x", "1", on("b"), antiAffine)}, pod("p", "1"), "a", "", 0},
		{"brought together", []*corev1.Node{node("a", 4, 8, labelled("zone", "1")), node("b", 4, 8, labelled("zone", "2"))}, []*corev1.Pod{pod("x", "3", on("a"), db)}, pod("p", "1", affine), "a", "", 0},
		{"brought to one who meets every rule", []*corev1.Node{node("a", 4, 8, labelled("zone", "1")), node("b", 4, 8, labelled("zone", "1"))}, []*corev1.Pod{pod("x", "1", on("a"), db), pod("y", "3", on("b"), db, fast)}, pod("p", "1", affineTwice), "b", "", 0},
		{"not to one for each rule", []*corev1.Node{node("a", 4, 8, labelled("zone", "1"))}, []*corev1.Pod{pod("x", "1", on("a"), db), pod("y", "1", on("a"), fast)}, pod("p", "1", affineTwice), "",
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.", 0},
		{"company that is not there", []*corev1.Node{node("a", 4, 8, labelled("zone", "1"))}, nil, pod("p", "1", affine), "",
			"0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.", 0},
		{"the first of its own kind", []*corev1.Node{node("a", 4, 8, labelled("zone", "1"))}, nil, pod("p", "1", affine, db), "a", "", 0},
		{"an even spread", two, []*corev1.Pod{pod("x", "1", on("a"))}, pod("p", "1", spread), "b", "", 0},
		{"an even spread is not possible", []*corev1.Node{a, node("b", 1, 8)}, []*corev1.Pod{pod("x", "1", on("a")), pod("y", "1", on("b"), db)}, pod("p", "1", spread), "",
			"0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.", 0},
		{"a spread that selects every pod counts none", []*corev1.Node{a, node("b", 1, 8)}, []*corev1.Pod{pod("x", "1", on("a")), pod("y", "1", on("b"))}, pod("p", "1", spread, func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints[0].LabelSelector = &metav1.LabelSelector{}
		}), "a", "", 0},
		{"one owner's pods spread", two, []*corev1.Pod{pod("x", "1", on("a"), owner), pod("y", "2", on("b"))}, pod("p", "1", owner), "b", "", 0},
		{"the important drives out the unimportant", two, []*corev1.Pod{pod("x", "4", on("a"), priority(5)), pod("y", "4", on("b"), priority(3))}, pod("p", "1", priority(9)), "", "0/2 nodes are available: 2 Insufficient cpu.", 1},
		{"but not if it must not", []*corev1.Node{a}, []*corev1.Pod{pod("x", "4", on("a"))}, pod("p", "1", priority(9), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &never }), "",
			"0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := ask(stateOf(test.nodes, test.pods...), test.pod, nil)
			n := 0
			if d.victims != nil {
				n = len(d.victims.pods)
			}
			if d.node != test.node || d.message != test.message || n != test.victims {
				t.Errorf("got node %q, %d victims, message\n%s\nwant node %q, %d victims, message\n%s", d.node, n, d.message, test.node, test.victims, test.message)
			}
		})
	}
}

func TestVictimsAreFewAndUnimportant(t *testing.T) {
	nodes := []*corev1.Node{node("a", 4, 8), node("b", 4, 8)}
	s := stateOf(nodes,
		pod("a1", "1", on("a"), priority(1)), pod("a2", "3", on("a"), priority(2)),
		pod("b1", "2", on("b"), priority(1)), pod("b2", "2", on("b"), priority(5)))
	d := ask(s, pod("p", "2", priority(9)), nil)
	if d.victims == nil || d.victims.node != "b" || len(d.victims.pods) != 1 || d.victims.pods[0].pod.Name != "b1" {
		t.Fatalf("victims: %+v", d.victims)
	}
}

func TestPlatforms(t *testing.T) {
	pi := node("pi", 4, 8)
	pc := node("pc", 4, 8, labelled(corev1.LabelArchStable, "amd64"))
	known := map[string][]string{"web:1": {"linux/amd64"}}
	if d := ask(stateOf([]*corev1.Node{pi, pc}), pod("p", "1"), known); d.node != "pc" {
		t.Errorf("an amd64 image goes to %q", d.node)
	}
	d := ask(stateOf([]*corev1.Node{pi}), pod("p", "1"), known)
	if want := "0/1 nodes are available: 1 node(s) are linux/arm64 but image web:1 is for linux/amd64 only: use an image for linux/arm64 or add a node of linux/amd64. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."; d.message != want {
		t.Errorf("message %q", d.message)
	}
	if d := ask(stateOf([]*corev1.Node{pi}), pod("p", "1"), nil); d.node != "pi" {
		t.Error("an image of which nothing is known is refused")
	}
}

// Whatever comes, no node is asked for more than it has, and who is refused
// fits on no node.
func TestNeverOvercommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState(link.ClusterConfig{})
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			s.setNode(node(fmt.Sprint("n", i), rapid.IntRange(1, 4).Draw(t, "cpu"), 8))
		}
		for i := range rapid.IntRange(1, 30).Draw(t, "pods") {
			p := pod(fmt.Sprint("p", i), fmt.Sprintf("%dm", rapid.IntRange(0, 2000).Draw(t, "milli")), priority(rapid.Int32Range(0, 3).Draw(t, "priority")))
			d := ask(s, p, nil)
			switch {
			case d.node != "":
				s.assumeLocked(newCandidate(p), d.node)
			case d.victims != nil:
				for _, v := range d.victims.pods {
					if *v.pod.Spec.Priority >= *p.Spec.Priority {
						t.Fatalf("%s of priority %d goes for %d", v.pod.Name, *v.pod.Spec.Priority, *p.Spec.Priority)
					}
					s.dropPod(v.pod.UID)
				}
				if d := ask(s, p, nil); d.node == "" {
					t.Fatalf("it does not fit after its victims are gone: %s", d.message)
				}
			}
			if rapid.Bool().Draw(t, "ends") {
				s.dropPod(types.UID(fmt.Sprint("p", rapid.IntRange(0, i).Draw(t, "which"))))
			}
			for _, n := range s.listed {
				sum := amounts{}
				for _, p := range n.pods {
					sum.add(p.requests, 1)
				}
				if sum.cpu != n.requested.cpu || sum.cpu > n.allocatable.cpu || int64(len(n.pods)) > n.allocatable.others[corev1.ResourcePods] {
					t.Fatalf("%s has %v of %v with %d pods", n.node.Name, n.requested, n.allocatable, len(n.pods))
				}
			}
		}
	})
}

// In a large cluster a part of the nodes that fit is compared, another one each time; a pod that fits nowhere has been refused by all.
func TestEnough(t *testing.T) {
	for nodes, want := range map[int]int{1: 1, 99: 99, 100: 100, 150: 100, 300: 144, 1000: 420, 5000: 500, 10_000: 500} {
		if got := enough(nodes); got != want {
			t.Errorf("%d of %d nodes, want %d", got, nodes, want)
		}
	}
	var nodes []*corev1.Node
	for i := range 300 {
		n := node(fmt.Sprintf("n%03d", i), 4, 4)
		n.Spec.Unschedulable = i < 10
		nodes = append(nodes, n)
	}
	s := stateOf(nodes)
	decideAt := func(turn int, p *corev1.Pod) decision {
		return decide(newCandidate(p), s.listed, turn, func(string) []*podState { return nil })
	}
	first := decideAt(0, pod("p", "1"))
	second := decideAt(first.looked, pod("p", "1"))
	if first.looked != 154 || second.looked != 144 || first.node >= "n154" || second.node < "n154" || second.node >= "n298" {
		t.Errorf("%d nodes and %s, then %d and %s", first.looked, first.node, second.looked, second.node)
	}
	if only := decideAt(20, pod("p", "1", func(p *corev1.Pod) { p.Spec.NodeName = "n015" })); only.node != "n015" {
		t.Errorf("after %d nodes: %q", only.looked, only.node)
	}
	if none := decideAt(7, pod("p", "5")); none.message != "0/300 nodes are available: 10 node(s) were unschedulable, 290 Insufficient cpu." {
		t.Error(none.message)
	}
	s.dropNode("n154")
	if s.listed[154].node.Name != "n155" || len(s.listed) != 299 {
		t.Errorf("%d nodes, of which one is %s", len(s.listed), s.listed[154].node.Name)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, size := range []int{10, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			s := newState(link.ClusterConfig{})
			for i := range size {
				s.setNode(node(fmt.Sprint("n", i), 64, 64))
				for j := range 9 {
					s.setPod(pod(fmt.Sprint("p", i, "-", j), "100m", on(fmt.Sprint("n", i))))
				}
			}
			p := newCandidate(pod("p", "100m"))
			nodes := s.listed
			b.ReportAllocs()
			for b.Loop() {
				decide(p, nodes, 0, func(string) []*podState { return nil })
			}
		})
	}
}
