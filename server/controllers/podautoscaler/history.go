package podautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// history is what the controller remembers of an autoscaler: what it found
// right of late, and what it did. It is lost with the process, as upstream's
// is: a size then waits for a whole window again.
type history struct {
	advice []stamped // the sizes that were computed, not stabilized
	ups    []stamped // by how much
	downs  []stamped
}

type stamped struct {
	n  int32
	at time.Time
}

// defaultShrinkWindow is how long a smaller size must have been right.
const defaultShrinkWindow = 5 * time.Minute

// rules are those of a behavior, with upstream's defaults where it says nothing.
type rules struct {
	window   time.Duration
	choose   autoscalingv2.ScalingPolicySelect
	policies []autoscalingv2.HPAScalingPolicy
}

func rulesOf(r *autoscalingv2.HPAScalingRules, def rules) rules {
	if r == nil {
		return def
	}
	if r.StabilizationWindowSeconds != nil {
		def.window = time.Duration(*r.StabilizationWindowSeconds) * time.Second
	}
	if r.SelectPolicy != nil {
		def.choose = *r.SelectPolicy
	}
	if len(r.Policies) > 0 {
		def.policies = r.Policies
	}
	return def
}

func growRules(b *autoscalingv2.HorizontalPodAutoscalerBehavior) rules {
	return rulesOf(b.ScaleUp, rules{choose: autoscalingv2.MaxChangePolicySelect, policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, {Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}})
}

func shrinkRules(b *autoscalingv2.HorizontalPodAutoscalerBehavior) rules {
	return rulesOf(b.ScaleDown, rules{window: defaultShrinkWindow, choose: autoscalingv2.MaxChangePolicySelect, policies: []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
	}})
}

// longest is the time for which changes of the size are remembered.
func (r rules) longest() time.Duration {
	var longest int32
	for _, p := range r.policies {
		longest = max(longest, p.PeriodSeconds)
	}
	return time.Duration(longest) * time.Second
}

// stabilize bounds what is advised now by what was advised within the windows:
// growing to the smallest of it, shrinking to the largest. It remembers the advice.
func (h *history) stabilize(advice, current int32, grow, shrink time.Duration, now time.Time) int32 {
	up, down := advice, advice
	for _, a := range h.advice {
		if a.at.After(now.Add(-grow)) {
			up = min(up, a.n)
		}
		if a.at.After(now.Add(-shrink)) {
			down = max(down, a.n)
		}
	}
	h.advice = append(recent(h.advice, now.Add(-max(grow, shrink))), stamped{advice, now})
	return min(max(current, up), down)
}

// highest is the largest of what is advised now and was within a window, which
// is all that bounds an autoscaler without a behavior. It remembers the advice.
func (h *history) highest(advice int32, window time.Duration, now time.Time) int32 {
	h.advice = append(recent(h.advice, now.Add(-window)), stamped{advice, now})
	for _, a := range h.advice {
		advice = max(advice, a.n)
	}
	return advice
}

// scaled remembers a change of the size for the policies of a behavior.
func (h *history) scaled(b *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	if b == nil {
		return
	}
	if to > from {
		h.ups = append(recent(h.ups, now.Add(-growRules(b).longest())), stamped{to - from, now})
		return
	}
	h.downs = append(recent(h.downs, now.Add(-shrinkRules(b).longest())), stamped{from - to, now})
}

// recent is a copy without what is older.
func recent(all []stamped, than time.Time) []stamped {
	return slices.DeleteFunc(slices.Clone(all), func(s stamped) bool { return s.at.Before(than) })
}

// startOf is the size at the begin of a policy's period.
func (h *history) startOf(period int32, current int32, now time.Time) int32 {
	since := now.Add(-time.Duration(period) * time.Second)
	for _, s := range h.ups {
		if s.at.After(since) {
			current -= s.n
		}
	}
	for _, s := range h.downs {
		if s.at.After(since) {
			current += s.n
		}
	}
	return current
}

// most is the largest size that a behavior allows now, and least the smallest.
func (h *history) most(r rules, current int32, now time.Time) int32 {
	if r.choose == autoscalingv2.DisabledPolicySelect {
		return current
	}
	return max(current, h.limit(r, current, now, func(start, value int32, percent bool) int32 {
		if percent { // rounded up, or one pod could never become two
			return clamp(math.Ceil(float64(start) * (1 + float64(value)/100)))
		}
		return clamp(float64(start) + float64(value))
	}, r.choose == autoscalingv2.MinChangePolicySelect))
}

func (h *history) least(r rules, current int32, now time.Time) int32 {
	if r.choose == autoscalingv2.DisabledPolicySelect {
		return current
	}
	return min(current, h.limit(r, current, now, func(start, value int32, percent bool) int32 {
		if percent {
			return clamp(float64(start) * (1 - float64(value)/100))
		}
		return clamp(float64(start) - float64(value))
	}, r.choose != autoscalingv2.MinChangePolicySelect))
}

// limit is the lowest or the highest of what the policies allow.
func (h *history) limit(r rules, current int32, now time.Time, allowed func(start, value int32, percent bool) int32, lowest bool) int32 {
	var all []int32
	for _, p := range r.policies {
		all = append(all, allowed(h.startOf(p.PeriodSeconds, current, now), p.Value, p.Type == autoscalingv2.PercentScalingPolicy))
	}
	if lowest {
		return slices.Min(all)
	}
	return slices.Max(all)
}

func clamp(f float64) int32 { return int32(min(max(f, math.MinInt32), math.MaxInt32)) }
