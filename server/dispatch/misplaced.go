package dispatch

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// A pod whose maker named its node may ask for a node that is not like this one. The kubelet refuses such a pod when it is to begin
// with it; here the server does, before the node is told of it, because the labels are the server's to know. A pod that has begun stays
// when labels change.

// misplaced says that a node must not begin with a pod: its node selector, or what its node affinity requires, does not match.
func misplaced(pod *corev1.Pod, node *corev1.Node) bool {
	if pod.Status.StartTime != nil || pod.DeletionTimestamp != nil || ended(pod.Status.Phase) {
		return false
	}
	if node.Labels[corev1.LabelHostname] == "" { // it has joined, and not reported what it is like
		return false
	}
	match, _ := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node) // what cannot be parsed matches nothing
	return !match
}

// refuseMisplaced fails the pods that the derivation has left out. Before that the API is asked what the node is like: the cache may
// have heard of the pod before it hears of the labels that it was made for. When it does, the set is derived again.
func (n *node) refuseMisplaced(ctx context.Context, left []*corev1.Pod) error {
	if len(left) == 0 {
		return nil
	}
	now, err := n.d.cfg.Client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return wrap(ignoreNotFound(err), "read node %s", n.name)
	}
	for _, pod := range left {
		if !misplaced(pod, now) {
			continue
		}
		if err := ignoreNotFound(n.refuse(ctx, pod)); err != nil {
			return wrap(err, "refuse pod %s/%s", pod.Namespace, pod.Name)
		}
	}
	return nil
}

// refuse fails a pod in the kubelet's words.
func (n *node) refuse(ctx context.Context, pod *corev1.Pod) error {
	const reason, message = "NodeAffinity", "Predicate NodeAffinity failed: " + nodeAffinityMismatch
	now := metav1.Now()
	status := *pod.Status.DeepCopy()
	status.Phase, status.Reason, status.Message = corev1.PodFailed, reason, "Pod was rejected: "+message
	status.StartTime, status.ObservedGeneration = &now, pod.Generation
	if _, err := n.d.writePodStatus(ctx, pod, status); err != nil {
		return err
	}
	return n.writeEvent(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: fmt.Sprintf("%s.%x", pod.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
		},
		Type: corev1.EventTypeWarning, Reason: reason, Message: message, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "kubelet", Host: n.name},
	})
}

// nodeAffinityMismatch is upstream's scheduler's and kubelet's text.
const nodeAffinityMismatch = "node(s) didn't match Pod's node affinity/selector"
