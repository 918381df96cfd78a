package podautoscaler

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

const (
	defaultTolerance = 0.1
	// Without a behavior a size at most doubles at once, or becomes four.
	growFactor, growLeast = 2, 4
)

// observed is what a plan is made of; nothing of it is changed.
type observed struct {
	autoscaler *autoscalingv2.HorizontalPodAutoscaler
	scale      *autoscalingv1.Scale
	selectable error                       // why the scale's selector cannot be used; nothing below it is known then
	reason     string                      // of it
	pods       []*corev1.Pod               // that the selector finds
	usage      []metricsv1beta1.PodMetrics // of them
	unmeasured error                       // why there is no usage
	readings   []reading                   // of metrics that others' APIs have, in the order of the spec; empty where usage is asked for
	history    history
	now        time.Time
}

// plan is the size that is wanted, what the status should be, and what is to be told.
type plan struct {
	size    int32
	resize  bool
	why     string // of a resize
	status  autoscalingv2.HorizontalPodAutoscalerStatus
	history history
	events  []event
	now     time.Time
}

type event struct{ kind, reason, message string }

func (p *plan) warn(reason, format string, args ...any) {
	p.events = append(p.events, event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)})
}

// least is minReplicas.
func least(a *autoscalingv2.HorizontalPodAutoscaler) int32 {
	if a.Spec.MinReplicas == nil {
		return 1
	}
	return *a.Spec.MinReplicas
}

// measures says that the size depends on metrics. Nothing is asked of any node if it does not.
func measures(a *autoscalingv2.HorizontalPodAutoscaler, current int32) bool {
	if current == 0 {
		return rises(a)
	}
	return current <= a.Spec.MaxReplicas && current >= least(a)
}

// rises says that an autoscaler which made the size zero itself may make it larger again (KEP-2021). One that somebody else made zero
// is switched off by that.
func rises(a *autoscalingv2.HorizontalPodAutoscaler) bool {
	own := slices.ContainsFunc(a.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == autoscalingv2.ScaledToZero && c.Status == corev1.ConditionTrue
	})
	return own && (least(a) != 0 || slices.ContainsFunc(a.Spec.Metrics, foreign))
}

// unreadable is the plan when the target has no scale that can be read.
func unreadable(a *autoscalingv2.HorizontalPodAutoscaler, err error, now time.Time) plan {
	p := plan{status: *a.Status.DeepCopy(), now: now}
	p.warn("FailedGetScale", "%v", err)
	p.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
	return p
}

// decide makes the plan.
func decide(o observed) plan {
	a, current := o.autoscaler, o.scale.Spec.Replicas
	p := plan{size: current, status: *a.Status.DeepCopy(), history: o.history, now: o.now}
	p.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	if len(p.history.advice) == 0 {
		p.history.advice = []stamped{{current, o.now}}
	}
	switch {
	case current == 0 && !rises(a):
		p.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case current > a.Spec.MaxReplicas:
		p.size, p.why = a.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case current != 0 && current < least(a):
		p.size, p.why = least(a), "Current number of replicas below Spec.MinReplicas"
	default:
		m := p.measure(o)
		p.counts(a, current, p.status.DesiredReplicas, m.statuses)
		if m.unusable {
			return p
		}
		p.why = "All metrics below target"
		if m.size > current {
			p.why = m.metric + " above target"
		}
		p.size = p.normalize(a, current, m.size)
		if current == 0 { // minReplicas may have been raised meanwhile
			p.size = max(p.size, least(a))
			if m.size == 0 {
				p.why = "Current number of replicas below Spec.MinReplicas"
			}
		}
		p.resize = p.size != current
		p.counts(a, current, p.size, m.statuses)
		return p
	}
	p.resize = p.size != current
	p.counts(a, current, p.size, nil)
	return p
}

// normalize brings an advised size into what the autoscaler allows now.
func (p *plan) normalize(a *autoscalingv2.HorizontalPodAutoscaler, current, advised int32) int32 {
	b := a.Spec.Behavior
	if b == nil {
		stable := p.history.highest(advised, defaultShrinkWindow, p.now)
		p.stabilized(stable == advised, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
		return p.limited(bounds{
			least: least(a), most: a.Spec.MaxReplicas, growTo: max(clamp(growFactor*float64(current)), growLeast), shrinkTo: least(a),
		}, stable)
	}
	grow, shrink := growRules(b), shrinkRules(b)
	stable := p.history.stabilize(advised, current, grow.window, shrink.window, p.now)
	if advised >= current {
		p.stabilized(stable == advised, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	} else {
		p.stabilized(stable == advised, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	}
	return p.limited(bounds{
		least: least(a), most: a.Spec.MaxReplicas, growTo: p.history.most(grow, current, p.now), shrinkTo: p.history.least(shrink, current, p.now),
	}, stable)
}

// bounds are those of the spec, and how far a size may go at once.
type bounds struct{ least, most, growTo, shrinkTo int32 }

// limited brings a size within bounds and says which of them it met.
func (p *plan) limited(b bounds, size int32) int32 {
	switch {
	case size > b.most && b.most <= b.growTo:
		p.condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
		return b.most
	case size > b.growTo:
		p.condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
		return b.growTo
	case size < b.least && b.least >= b.shrinkTo:
		p.condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "TooFewReplicas", "the desired replica count is less than the minimum replica count")
		return b.least
	case size < b.shrinkTo:
		p.condition(autoscalingv2.ScalingLimited, corev1.ConditionTrue, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
		return b.shrinkTo
	}
	p.condition(autoscalingv2.ScalingLimited, corev1.ConditionFalse, "DesiredWithinRange", "the desired count is within the acceptable range")
	return size
}

func (p *plan) stabilized(ready bool, reason, message string) {
	if ready {
		reason, message = "ReadyForNewScale", "recommended size matches current size"
	}
	p.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, "%s", message)
}

// resized is the plan after the size was written, or could not be.
func (p *plan) resized(a *autoscalingv2.HorizontalPodAutoscaler, current int32, err error) {
	if err != nil {
		p.warn("FailedRescale", "New size: %d; reason: %s; error: %v", p.size, p.why, err)
		p.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
		p.status.DesiredReplicas = a.Status.DesiredReplicas
		return
	}
	p.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", "the HPA controller was able to update the target scale to %d", p.size)
	if p.size == 0 && slices.ContainsFunc(a.Spec.Metrics, foreign) {
		p.condition(autoscalingv2.ScaledToZero, corev1.ConditionTrue, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		p.condition(autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	p.events = append(p.events, event{corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", p.size, p.why)})
	p.history.scaled(a.Spec.Behavior, current, p.size, p.now)
	at := metav1.NewTime(p.now)
	p.status.LastScaleTime = &at
}

func (p *plan) counts(a *autoscalingv2.HorizontalPodAutoscaler, current, desired int32, metrics []autoscalingv2.MetricStatus) {
	generation := a.Generation
	p.status.ObservedGeneration, p.status.CurrentReplicas, p.status.DesiredReplicas, p.status.CurrentMetrics = &generation, current, desired, metrics
}

func (p *plan) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, format string, args ...any) {
	c := autoscalingv2.HorizontalPodAutoscalerCondition{Type: t, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...), LastTransitionTime: metav1.NewTime(p.now)}
	for n, old := range p.status.Conditions {
		if old.Type != t {
			continue
		}
		if old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		p.status.Conditions[n] = c
		return
	}
	p.status.Conditions = append(p.status.Conditions, c)
}
