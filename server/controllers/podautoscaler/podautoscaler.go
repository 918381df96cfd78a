package podautoscaler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/scales"
)

const (
	// period is how often an autoscaler is looked at, as upstream has it.
	period = 15 * time.Second
	// lookTime is how long a look may take, a node that does not answer (6 s) included, and writeTime how long the write of
	// what it found. The API sets no deadlines for programs of this process: without these, a question that nobody answers
	// would be the autoscaler's last. With them its status is never older than half a minute.
	lookTime  = 8 * time.Second
	writeTime = 5 * time.Second
	// hold is how long a look keeps a worker. One that takes longer, because a server of metrics or a board is silent, goes on without: so
	// many autoscalers may ask it, and the others are looked at in their time. (Upstream has five workers, and each waits for its answer.)
	hold = 100 * time.Millisecond
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client      kubernetes.Interface
	Events      record.EventRecorder
	Autoscalers *cache.Cache[autoscalingv2.HorizontalPodAutoscaler]
	Pods        *cache.Cache[corev1.Pod]
	Targets     Targets // nil: what the API has
	Log         *slog.Logger
}

// Targets are the sizes of workloads and what their pods use: what has no place
// in an API that is made of objects alone.
type Targets interface {
	Scale(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, schema.GroupVersionResource, error)
	Resize(ctx context.Context, resource schema.GroupVersionResource, scale *autoscalingv1.Scale) error
	Usage(ctx context.Context, namespace string, selector labels.Selector) ([]metricsv1beta1.PodMetrics, error)
	// Reading is one metric of an API that others bring.
	Reading(ctx context.Context, namespace string, pods labels.Selector, m autoscalingv2.MetricSpec) reading
}

// Controller looks at autoscalers.
type Controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
	asking sync.WaitGroup // the looks under way, at most one of an autoscaler

	mu    sync.Mutex
	seen  map[loop.Key]memory
	looks map[loop.Key]*looking
}

// looking is a look from its beginning until what it found is written.
type looking struct {
	of   *autoscalingv2.HorizontalPodAutoscaler
	done chan struct{}
	plan plan // when done
	left bool // no worker waits for it: it tells when it is done
}

// memory is what is known of an autoscaler from before.
type memory struct {
	history  history
	selector labels.Selector // of its target's pods
}

// New makes the controller; its keys are autoscalers.
func New(in Inputs) *Controller {
	c := &Controller{Inputs: in, seen: map[loop.Key]memory{}, looks: map[loop.Key]*looking{}}
	if c.Targets == nil {
		c.Targets = targets{in.Client}
	}
	c.loop = loop.New("horizontal-pod-autoscaler", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Autoscalers, func(change cache.Change[autoscalingv2.HorizontalPodAutoscaler]) []loop.Key {
		if change.Old != nil && change.New != nil && equality.Semantic.DeepEqual(change.Old.Spec, change.New.Spec) {
			return nil
		}
		return []loop.Key{change.Key()}
	})
	return c
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) {
	defer c.asking.Wait()
	c.loop.Run(ctx)
}

func (c *Controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	a, ok := c.Autoscalers.Get(key.Namespace, key.Name)
	if !ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.seen, key)
		delete(c.looks, key)
		return nil
	}
	l := c.begin(ctx, key, a)
	if !c.ended(key, l) {
		return nil
	}
	if l.of.UID != a.UID || l.of.Generation != a.Generation {
		c.loop.Enqueue(key) // it is another one by now, or wants something else
		return nil
	}
	for _, e := range l.plan.events {
		c.Events.Event(a, e.kind, e.reason, e.message)
	}
	err := c.report(ctx, key, a, l.plan.status)
	c.loop.After(key, period) // also after an error: the next look mends it
	return err
}

// begin gives the look at an autoscaler that is under way or not written yet; without one, it begins one.
func (c *Controller) begin(ctx context.Context, key loop.Key, a *autoscalingv2.HorizontalPodAutoscaler) *looking {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.looks[key]; l != nil {
		return l
	}
	l := &looking{of: a, done: make(chan struct{})}
	c.looks[key] = l
	c.asking.Go(func() {
		l.plan = c.look(ctx, key, a)
		c.mu.Lock()
		defer c.mu.Unlock()
		close(l.done)
		if l.left {
			c.loop.Enqueue(key)
		}
	})
	return l
}

// ended waits a little for a look. One that has ended is no longer under way.
func (c *Controller) ended(key loop.Key, l *looking) bool {
	enough := time.NewTimer(hold)
	defer enough.Stop()
	select {
	case <-l.done:
	case <-enough.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-l.done:
		delete(c.looks, key)
		return true
	default:
		l.left = true
		return false
	}
}

// look makes the plan and the resize that it says.
func (c *Controller) look(ctx context.Context, key loop.Key, a *autoscalingv2.HorizontalPodAutoscaler) plan {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	scale, resource, err := c.Targets.Scale(ctx, a.Namespace, a.Spec.ScaleTargetRef)
	if err != nil {
		return unreadable(a, err, time.Now())
	}
	o := observed{autoscaler: a, scale: scale}
	if measures(a, scale.Spec.Replicas) {
		c.observe(ctx, key, &o)
	}
	c.mu.Lock()
	o.history = c.seen[key].history
	c.mu.Unlock()
	o.now = time.Now()
	p := decide(o)
	if p.resize {
		scale = scale.DeepCopy()
		current := scale.Spec.Replicas
		scale.Spec.Replicas = p.size
		err := c.Targets.Resize(ctx, resource, scale)
		p.resized(a, current, err)
		if err == nil {
			c.Log.Info("rescaled", "autoscaler", key.String(), "from", current, "to", p.size, "reason", p.why)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.seen[key]
	m.history = p.history
	c.seen[key] = m
	return p
}

// observe reads the pods and what they use.
func (c *Controller) observe(ctx context.Context, key loop.Key, o *observed) {
	text := o.scale.Status.Selector
	if text == "" {
		o.selectable, o.reason = errors.New("selector is required"), "InvalidSelector"
		return
	}
	selector, err := labels.Parse(text)
	if err != nil {
		o.selectable, o.reason = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %v", err), "InvalidSelector"
		return
	}
	o.pods = c.Pods.List(key.Namespace, selector)
	if rivals := c.rivals(key, selector, o.pods); len(rivals) > 1 {
		o.selectable, o.reason = fmt.Errorf("pods by selector %v are controlled by more than one HPA (e.g. [%s])", text, strings.Join(rivals, " ")), "AmbiguousSelector"
		return
	}
	o.readings = make([]reading, len(o.autoscaler.Spec.Metrics))
	var asking sync.WaitGroup
	for n, m := range o.autoscaler.Spec.Metrics {
		if !ofUsage(m) {
			asking.Go(func() { o.readings[n] = c.Targets.Reading(ctx, key.Namespace, selector, m) })
		}
	}
	defer asking.Wait()
	if !slices.ContainsFunc(o.autoscaler.Spec.Metrics, ofUsage) {
		return
	}
	if o.usage, err = c.Targets.Usage(ctx, key.Namespace, selector); err != nil {
		o.unmeasured = fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	} else if len(o.usage) == 0 {
		o.unmeasured = errors.New("no metrics returned from resource metrics API")
	}
}

// ofUsage says that a metric is of what pods use themselves.
func ofUsage(m autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType || m.Type == autoscalingv2.ContainerResourceMetricSourceType
}

// rivals are the autoscalers whose targets have one of these pods, this one
// among them, at most two. Two would undo what the other does.
func (c *Controller) rivals(key loop.Key, selector labels.Selector, pods []*corev1.Pod) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.seen[key]
	m.selector = selector
	c.seen[key] = m
	out := []string{fmt.Sprintf("{%s %s}", key.Name, key.Namespace)} // upstream's form
	for other, m := range c.seen {
		if other.Namespace == key.Namespace && other != key && m.selector != nil && len(out) < 2 &&
			slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return m.selector.Matches(labels.Set(p.Labels)) }) {
			out = append(out, fmt.Sprintf("{%s %s}", other.Name, other.Namespace))
		}
	}
	slices.Sort(out)
	return out
}

func (c *Controller) report(ctx context.Context, key loop.Key, a *autoscalingv2.HorizontalPodAutoscaler, status autoscalingv2.HorizontalPodAutoscalerStatus) error {
	if equality.Semantic.DeepEqual(a.Status, status) {
		return nil
	}
	a = a.DeepCopy()
	a.Status = status
	a.ResourceVersion = "" // nobody else writes the status
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	written, err := c.Client.AutoscalingV2().HorizontalPodAutoscalers(a.Namespace).UpdateStatus(ctx, a, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		c.Events.Event(a, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
	}
	return loop.Reported(&c.writes, key, c.Autoscalers, written, err)
}

// targets are those of the API.
type targets struct{ client kubernetes.Interface }

func (t targets) Scale(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, schema.GroupVersionResource, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, schema.GroupVersionResource{}, err
	}
	resource, err := scales.Find(ctx, t.client, gv, ref.Kind)
	if err != nil {
		return nil, resource, err
	}
	scale, err := scales.Get(ctx, t.client, resource, namespace, ref.Name)
	return scale, resource, err
}

// Resize writes the size, over whatever else of the target has changed since it was read.
func (t targets) Resize(ctx context.Context, resource schema.GroupVersionResource, scale *autoscalingv1.Scale) error {
	size := scale.Spec.Replicas
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		_, err := scales.Update(ctx, t.client, resource, scale)
		if !apierrors.IsConflict(err) {
			return err
		}
		if fresh, failed := scales.Get(ctx, t.client, resource, scale.Namespace, scale.Name); failed == nil {
			scale = fresh
			scale.Spec.Replicas = size
		}
		return err
	})
}

func (t targets) Usage(ctx context.Context, namespace string, selector labels.Selector) ([]metricsv1beta1.PodMetrics, error) {
	body, err := t.client.CoreV1().RESTClient().Get().AbsPath("/apis", metricsv1beta1.GroupName, metricsv1beta1.SchemeGroupVersion.Version, "namespaces", namespace, "pods").
		Param("labelSelector", selector.String()).SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var list metricsv1beta1.PodMetricsList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, err
	}
	return list.Items, nil
}
