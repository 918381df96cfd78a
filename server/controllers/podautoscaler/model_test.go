package podautoscaler

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// model is a workload under a load that its pods share, and its autoscaler.
type model struct {
	a       *autoscalingv2.HorizontalPodAutoscaler
	size    int32
	load    int64 // millicores, of all pods
	history history
	now     time.Time
}

func drawBehavior(t *rapid.T) *autoscalingv2.HorizontalPodAutoscalerBehavior {
	rule := func(name string) *autoscalingv2.HPAScalingRules {
		r := &autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: ptr(int32(rapid.SampledFrom([]int{0, 30, 120}).Draw(t, name+" window"))),
			SelectPolicy:               ptr(rapid.SampledFrom([]autoscalingv2.ScalingPolicySelect{autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect}).Draw(t, name+" choice")),
		}
		for range rapid.IntRange(1, 2).Draw(t, name+" policies") {
			r.Policies = append(r.Policies, autoscalingv2.HPAScalingPolicy{
				Type:          rapid.SampledFrom([]autoscalingv2.HPAScalingPolicyType{autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy}).Draw(t, name+" type"),
				Value:         int32(rapid.IntRange(20, 100).Draw(t, name+" value")),
				PeriodSeconds: int32(rapid.SampledFrom([]int{15, 60}).Draw(t, name+" period")),
			})
		}
		return r
	}
	return &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rule("up"), ScaleDown: rule("down")}
}

// step is one look of the controller; some pods are not ready yet, or unknown.
func (m *model) step(t *rapid.T, troubled bool) plan {
	m.now = m.now.Add(period)
	var pods []*corev1.Pod
	var used []int64
	for n := range int(m.size) {
		each := m.load / int64(m.size)
		p := pod(n)
		if troubled {
			switch rapid.IntRange(0, 5).Draw(t, "trouble") {
			case 0:
				pending(p)
				each = -1
			case 1:
				each = -1
			}
		}
		pods, used = append(pods, p), append(used, each)
	}
	o := observe(m.a, m.size, pods, used...)
	o.history, o.now = m.history, m.now
	p := decide(o)
	if p.size != m.size != p.resize {
		t.Fatalf("from %d to %d, resize %v", m.size, p.size, p.resize)
	}
	least, most := *m.a.Spec.MinReplicas, m.a.Spec.MaxReplicas
	if p.size < least && p.size < m.size || p.size > most && p.size > m.size {
		t.Fatalf("from %d to %d, outside %d to %d", m.size, p.size, least, most)
	}
	if p.resize {
		m.within(t, p.size)
		p.resized(m.a, m.size, nil)
		m.size = p.size
	}
	m.history = p.history
	m.a.Status = p.status
	if n := len(m.history.advice); n > 40 {
		t.Fatalf("%d pieces of advice are remembered", n)
	}
	return p
}

// within holds that a workload does not shrink below what was advised within the window.
func (m *model) within(t *rapid.T, size int32) {
	window := defaultShrinkWindow
	if b := m.a.Spec.Behavior; b != nil {
		window = shrinkRules(b).window
	}
	for _, a := range m.history.advice {
		if size < m.size && a.at.After(m.now.Add(-window)) && size < min(a.n, m.size) && m.size <= m.a.Spec.MaxReplicas {
			t.Fatalf("shrinks from %d to %d, although %d was right %v ago", m.size, size, a.n, m.now.Sub(a.at))
		}
	}
}

// Sizes stay within bounds, shrink only when that has been right for the
// window, and settle when the load does.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := int32(rapid.IntRange(1, 3).Draw(t, "least"))
		m := &model{a: autoscaler(least, least+int32(rapid.IntRange(0, 12).Draw(t, "more")), cpu("60")), now: start}
		if rapid.Bool().Draw(t, "behavior") {
			m.a.Spec.Behavior = drawBehavior(t)
		}
		m.size = int32(rapid.IntRange(1, 15).Draw(t, "size"))
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.load = int64(rapid.IntRange(0, 2000).Draw(t, "load"))
			case 1: // somebody else
				m.size = int32(rapid.IntRange(1, 15).Draw(t, "scaled by hand"))
			case 2: // the controller starts anew
				m.history = history{}
			}
			m.step(t, rapid.Bool().Draw(t, "troubled"))
		}
		for range 60 { // a quarter of an hour
			m.step(t, false)
		}
		before := m.size
		for range 20 {
			if p := m.step(t, false); p.resize || len(p.events) > 0 {
				t.Fatalf("under a steady load of %d the size goes from %d to %d: %v", m.load, before, p.size, p.events)
			}
		}
		if m.size < least || m.size > m.a.Spec.MaxReplicas {
			t.Fatalf("it settles at %d", m.size)
		}
	})
}
