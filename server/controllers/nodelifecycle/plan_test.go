package nodelifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/nodes"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func node(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	for _, s := range taints {
		k, e, _ := strings.Cut(s, ":")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffect(e)})
	}
	return n
}

func TestMissing(t *testing.T) {
	for _, test := range []struct {
		name   string
		online bool
		ago    time.Duration
		ready  corev1.ConditionStatus
		want   bool
		in     time.Duration
	}{
		{"present", true, time.Hour, "True", false, 0},
		{"away for a moment", false, 10 * time.Second, "True", false, 30 * time.Second},
		{"away for long", false, time.Minute, "True", true, -20 * time.Second},
		{"never reported", false, 50 * time.Second, "", false, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, in := observed{node: node(test.ready), online: test.online, since: now.Add(-test.ago), now: now}.missing()
			if got != test.want || in != test.in {
				t.Errorf("got %v in %v, want %v in %v", got, in, test.want, test.in)
			}
		})
	}
}

func TestUnknownOnce(t *testing.T) {
	n := node("True")
	n.Status.Conditions = unknown(n, now)
	if c := nodes.Condition(n, corev1.NodeReady); c.Status != "Unknown" || c.Reason != "NodeStatusUnknown" || len(n.Status.Conditions) != 4 {
		t.Errorf("conditions are %v", n.Status.Conditions)
	}
	if unknown(n, now) != nil {
		t.Error("a second plan is not empty")
	}
}

func TestTaints(t *testing.T) {
	cordoned := node("True")
	cordoned.Spec.Unschedulable = true
	for _, test := range []struct {
		name string
		node *corev1.Node
		want []string
	}{
		{"ready", node("True"), nil},
		{"others' taints stay", node("True", "gpu:NoSchedule"), []string{"gpu:NoSchedule"}},
		{"unreachable", node("Unknown", "gpu:NoSchedule"), []string{"gpu:NoSchedule", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"}},
		{"back again", node("True", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"), nil},
		{"not ready", node("False"), []string{"node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"}},
		{"cordoned", cordoned, []string{"node.kubernetes.io/unschedulable:NoSchedule"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, changed := taints(test.node, now)
			var names []string
			for _, taint := range got {
				names = append(names, fmt.Sprintf("%s:%s", taint.Key, taint.Effect))
			}
			if !slices.Equal(names, test.want) || changed != (len(got) != len(test.node.Spec.Taints)) {
				t.Errorf("got %v, changed %v, want %v", names, changed, test.want)
			}
			test.node.Spec.Taints = got
			if _, again := taints(test.node, now); again {
				t.Error("a second plan is not empty")
			}
		})
	}
}

func TestWhatIsAdvertisedIsAllocatable(t *testing.T) {
	list := func(dongles string) corev1.ResourceList {
		out := corev1.ResourceList{"cpu": resource.MustParse("1")}
		if dongles != "" {
			out["example.com/dongle"] = resource.MustParse(dongles)
		}
		return out
	}
	for _, test := range []struct{ name, capacity, allocatable string }{
		{"added", "4", ""},
		{"changed", "4", "3"},
		{"taken back", "", "4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := node("True")
			n.Status.Capacity, n.Status.Allocatable = list(test.capacity), list(test.allocatable)
			n.Status.Capacity["cpu"] = resource.MustParse("2") // the node's own business
			got, changed := allocatable(n)
			if !changed || !equality.Semantic.DeepEqual(got, list(test.capacity)) {
				t.Fatalf("allocatable %v (changed: %v), want %v", got, changed, list(test.capacity))
			}
			n.Status.Allocatable = got
			if again, changed := allocatable(n); changed {
				t.Errorf("changed again, to %v", again)
			}
		})
	}
}
