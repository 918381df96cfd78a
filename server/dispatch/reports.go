package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/link"
)

// apply writes what the node reports to the API, in order.
func (n *node) apply(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.work:
		}
		n.refresh(ctx)
		for s := n.current(); s != nil && ctx.Err() == nil; s = n.current() {
			b, ok := s.Work()
			if !ok {
				break
			}
			for _, c := range b.Changes {
				n.applyOne(ctx, c)
			}
			if ctx.Err() == nil {
				s.Applied(b)
			}
		}
	}
}

// applyOne writes one report, until it is written or can never be.
func (n *node) applyOne(ctx context.Context, c link.Change) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		var err error
		n.d.writing.do(func() { err = n.write(ctx, c) })
		if err == nil || ctx.Err() != nil {
			return
		}
		if !passing(err) {
			n.d.log.Error("a report of a node cannot be written and is dropped", "node", n.name, "key", c.Key, "err", err)
			return
		}
		n.d.log.Log(ctx, retryLevel(err), "a report of a node is not written yet", "node", n.name, "key", c.Key, "err", err)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// retryLevel: that others write the same object meanwhile is no news for an operator.
func retryLevel(err error) slog.Level {
	if apierrors.IsConflict(err) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.ReasonForError(err) == metav1.StatusReasonUnknown && !isMalformed(err)
}

type malformed struct{ error }

func isMalformed(err error) bool {
	_, ok := err.(malformed)
	return ok
}

func (n *node) write(ctx context.Context, c link.Change) error {
	kind, rest, _ := strings.Cut(c.Key, "/")
	if kind == "pods" {
		n.remember(c)
	}
	switch {
	case c.Value == nil:
		return nil // the node has nothing to say of it any more
	case c.Key == link.NodeReportKey:
		r, err := link.DecodeNodeReport(c.Value)
		if err != nil {
			return malformed{err}
		}
		n.mu.Lock()
		n.report = r
		n.mu.Unlock()
		return n.d.writeNode(ctx, n.name, r)
	case kind == "pods":
		parts := strings.Split(rest, "/")
		r, err := link.DecodePodReport(c.Value)
		if err != nil || len(parts) != 3 {
			return malformed{fmt.Errorf("report of a pod: %w", err)}
		}
		return n.writePod(ctx, parts[0], parts[1], r)
	case kind == "events":
		e := &corev1.Event{}
		if err := e.Unmarshal(c.Value); err != nil {
			return malformed{err}
		}
		return n.writeEvent(ctx, e)
	case kind == "volumes":
		r, err := link.DecodeVolumeReport(c.Value)
		if err != nil {
			return malformed{err}
		}
		return n.writeVolume(ctx, rest, r)
	}
	return nil // of a later version
}

// remember keeps the newest report of a pod.
func (n *node) remember(c link.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.Value == nil {
		delete(n.pods, c.Key)
		return
	}
	if n.pods == nil {
		n.pods = map[string][]byte{}
	}
	n.pods[c.Key] = bytes.Clone(c.Value)
}

// refresh writes what the node reported again after it was away: while it was, others wrote that
// its state is unknown and its pods are not ready, and the node does not repeat itself.
func (n *node) refresh(ctx context.Context) {
	n.mu.Lock()
	due := n.renew
	n.renew = false
	report, pods := n.report, maps.Clone(n.pods)
	n.mu.Unlock()
	if !due {
		return
	}
	if report != nil {
		if err := n.d.writeNode(ctx, n.name, report); err != nil && ctx.Err() == nil {
			n.d.log.Log(ctx, retryLevel(err), "a node's status is not written yet", "node", n.name, "err", err)
			n.mu.Lock()
			n.renew = true
			n.mu.Unlock()
			time.AfterFunc(time.Second, func() { poke(n.work) })
			return
		}
	}
	for key, value := range pods {
		n.applyOne(ctx, link.Change{Key: key, Value: value})
	}
}

// ownConditions are those that the node decides; others keep what the API has.
var ownConditions = map[corev1.PodConditionType]bool{
	corev1.PodReady: true, corev1.ContainersReady: true, corev1.PodInitialized: true, corev1.PodReadyToStartContainers: true,
	corev1.PodResizePending: true, corev1.PodResizeInProgress: true,
}

// mergePodStatus is the status of a pod after a report: what the node does not decide stays.
func mergePodStatus(have corev1.PodStatus, report corev1.PodStatus) corev1.PodStatus {
	out := *report.DeepCopy()
	conditions := out.Conditions
	out.Conditions = nil
	reported := map[corev1.PodConditionType]bool{}
	for _, c := range conditions {
		reported[c.Type] = true
	}
	for _, c := range have.Conditions {
		if !reported[c.Type] && !ownConditions[c.Type] {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.Conditions = append(out.Conditions, conditions...)
	if out.QOSClass == "" {
		out.QOSClass = have.QOSClass
	}
	if out.NominatedNodeName == "" {
		out.NominatedNodeName = have.NominatedNodeName
	}
	if out.StartTime == nil {
		out.StartTime = have.StartTime
	}
	if out.ResourceClaimStatuses == nil {
		out.ResourceClaimStatuses = have.ResourceClaimStatuses
	}
	return out
}

// writePod writes a pod's status, and removes the pod when nothing of it is left on the node.
func (n *node) writePod(ctx context.Context, namespace, name string, r *link.PodReport) error {
	pod, ok := n.d.cfg.Caches.Pods().Get(namespace, name)
	if !ok || pod.UID != r.UID {
		var err error
		if pod, err = n.d.readPod(ctx, namespace, name); err != nil {
			return ignoreNotFound(err)
		}
	}
	for {
		if pod.UID != r.UID || pod.Spec.NodeName != n.name {
			return nil // another pod of the name, or no longer this node's
		}
		if ended(pod.Status.Phase) && !ended(r.Status.Phase) {
			return nil // somebody ended it meanwhile; the node is told
		}
		written, err := n.d.writePodStatus(ctx, pod, mergePodStatus(pod.Status, r.Status))
		switch {
		case apierrors.IsConflict(err): // the cache was behind, or somebody was quicker
			if pod, err = n.d.readPod(ctx, namespace, name); err != nil {
				return ignoreNotFound(err)
			}
		case err != nil:
			return ignoreNotFound(err)
		case r.Terminated && written.DeletionTimestamp != nil:
			return n.d.removePod(ctx, written)
		default:
			return nil
		}
	}
}

func (d *Dispatcher) readPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return d.cfg.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// writePodStatus gives the pod as it is afterwards: the same if it has that status.
func (d *Dispatcher) writePodStatus(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) (*corev1.Pod, error) {
	if equality.Semantic.DeepEqual(status, pod.Status) {
		return pod, nil
	}
	update := pod.DeepCopy()
	update.Status = status
	return d.cfg.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
}

func ended(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// removePod removes a pod object at once.
func (d *Dispatcher) removePod(ctx context.Context, pod *corev1.Pod) error {
	var now int64
	err := d.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return wrap(err, "remove pod %s/%s", pod.Namespace, pod.Name)
}

// writeEvent posts an event, or brings the count of one that is there up to date.
func (n *node) writeEvent(ctx context.Context, e *corev1.Event) error {
	e.ResourceVersion = ""
	events := n.d.cfg.Client.CoreV1().Events(e.Namespace)
	_, err := events.Create(ctx, e, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		have, err := events.Get(ctx, e.Name, metav1.GetOptions{})
		if err != nil || have.Count >= e.Count {
			return ignoreNotFound(err)
		}
		have.Count, have.LastTimestamp, have.Message, have.Series = e.Count, e.LastTimestamp, e.Message, e.Series
		_, err = events.Update(ctx, have, metav1.UpdateOptions{})
		return ignoreNotFound(err)
	}
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil // its namespace is gone, or going
	}
	return err
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// writeNode writes a node's status, labels and annotations.
func (d *Dispatcher) writeNode(ctx context.Context, name string, r *link.NodeReport) error {
	nodes := d.cfg.Client.CoreV1().Nodes()
	have, err := nodes.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // it was deleted; the next session makes it again
	}
	if err != nil {
		return err
	}
	if update := mergeNodeMeta(have, r); update != nil {
		if have, err = nodes.Update(ctx, update, metav1.UpdateOptions{}); err != nil {
			return ignoreNotFound(err)
		}
	}
	status := mergeNodeStatus(have.Status, r.Status, metav1.Now())
	if equality.Semantic.DeepEqual(status, have.Status) {
		return nil
	}
	update := have.DeepCopy()
	update.Status = status
	_, err = nodes.UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return ignoreNotFound(err)
}

// registered marks a Node that has got the taints that its agent was started with.
const registered = "bramble.dev/registered"

// mergeNodeMeta is the Node with the labels, taints and the address that were reported; nil if it
// has them. Labels that others set stay, and those that are not a node's own to choose; taints are set once for an instance.
func mergeNodeMeta(have *corev1.Node, r *link.NodeReport) *corev1.Node {
	out := have.DeepCopy()
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	for k, v := range r.Labels {
		if !link.RestrictedLabel(k) {
			out.Labels[k] = v
		}
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	if len(r.MAC) > 0 {
		out.Annotations[MACAnnotation] = r.MAC.String()
	}
	if len(r.Platforms) > 0 {
		told, err := json.Marshal(r.Platforms) // with sorted keys: the same report is the same annotation
		if err == nil {
			out.Annotations[link.PlatformsAnnotation] = string(told)
		}
	} else {
		delete(out.Annotations, link.PlatformsAnnotation)
	}
	if r.LocalVolumes != "" {
		out.Annotations[link.LocalVolumesAnnotation] = r.LocalVolumes
	} else {
		delete(out.Annotations, link.LocalVolumesAnnotation)
	}
	if instance := out.Annotations[InstanceAnnotation]; out.Annotations[registered] != instance {
		out.Annotations[registered] = instance
		for _, t := range r.Taints {
			if !hasTaint(out.Spec.Taints, t) {
				out.Spec.Taints = append(out.Spec.Taints, t)
			}
		}
	}
	if equality.Semantic.DeepEqual(out, have) {
		return nil
	}
	return out
}

func hasTaint(taints []corev1.Taint, t corev1.Taint) bool {
	for _, x := range taints {
		if x.Key == t.Key && x.Effect == t.Effect {
			return true
		}
	}
	return false
}

// mergeNodeStatus is the status of a Node after a report: conditions of others stay, and the time
// of a transition is that of the change of the API's condition.
func mergeNodeStatus(have, report corev1.NodeStatus, now metav1.Time) corev1.NodeStatus {
	out := *report.DeepCopy()
	reported := map[corev1.NodeConditionType]bool{}
	before := map[corev1.NodeConditionType]corev1.NodeCondition{}
	for _, c := range have.Conditions {
		before[c.Type] = c
	}
	for i := range out.Conditions {
		c := &out.Conditions[i]
		reported[c.Type] = true
		switch old, ok := before[c.Type]; {
		case ok && old.Status == c.Status:
			c.LastTransitionTime = old.LastTransitionTime
		case ok || c.LastTransitionTime.IsZero():
			c.LastTransitionTime = now
		}
	}
	for _, c := range have.Conditions {
		if !reported[c.Type] {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.Capacity = withAdvertised(out.Capacity, have.Capacity)
	out.Allocatable = withAdvertised(out.Allocatable, have.Allocatable)
	if out.VolumesAttached == nil {
		out.VolumesAttached = have.VolumesAttached
	}
	if out.VolumesInUse == nil {
		out.VolumesInUse = have.VolumesInUse
	}
	return out
}

// withAdvertised is a report's list with the resources of a domain of their own ("example.com/dongle"): those that the node
// knows nothing of are advertised by people and programs, in the Node's status
// (https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/).
func withAdvertised(report, have corev1.ResourceList) corev1.ResourceList {
	for name, quantity := range have {
		if _, reported := report[name]; reported || !strings.Contains(string(name), "/") {
			continue
		}
		if report == nil {
			report = corev1.ResourceList{}
		}
		report[name] = quantity
	}
	return report
}
