package scheduler

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/persistentvolume"
	"bramble.dev/server/controllers/pods"
)

// maxNote is how long an event's text may be.
const maxNote = 1024

// writeTimeout bounds one write, so that a stuck one does not hold a slot for ever.
const writeTimeout = 30 * time.Second

// bind writes a decision. The pod has its room already.
func (s *scheduler) bind(ctx context.Context, it *item, p *candidate, node string) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := s.Client.CoreV1().Pods(p.pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.pod.Namespace, Name: p.pod.Name, UID: p.pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.events.Eventf(p.pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", p.pod.Namespace, p.pod.Name, node)
		return // the queue forgets it when the cache shows it bound
	}
	s.state.forget(p.pod.UID)
	s.queue.wake(nil)
	if apierrors.IsNotFound(err) {
		s.queue.remove(it.uid)
		return
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		s.queue.wait(it, false) // the pod goes with its namespace
		return
	}
	if ctx.Err() == nil && !apierrors.IsConflict(err) {
		s.Logger.Warn("a pod could not be bound and is tried again", "pod", it.key.String(), "node", node, "err", err)
		s.tell(ctx, p.pod, corev1.PodReasonSchedulerError, fmt.Sprintf("binding rejected: %v", err), "", "")
	}
	s.queue.wait(it, true)
}

// refused tells why a pod fits nowhere and, if that helps, takes others away.
func (s *scheduler) refused(ctx context.Context, it *item, p *candidate, d decision) {
	node := d.nominated
	if d.victims != nil {
		node = d.victims.node
		s.state.nominate(p.pod, node)
	}
	s.tell(ctx, p.pod, corev1.PodReasonUnschedulable, d.message, d.advice, node)
	if d.victims != nil {
		s.evict(ctx, p.pod, d.victims)
	}
	s.queue.wait(it, false)
}

// tell writes the condition, unless it says so already, and an event, which has the advice too.
func (s *scheduler) tell(ctx context.Context, pod *corev1.Pod, reason, message, advice, nominated string) {
	note := message
	if advice != "" {
		note = strings.TrimSuffix(message, ".") + ". " + advice
	}
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote-len(" ...")], "") + " ..."
	}
	s.events.Event(pod, corev1.EventTypeWarning, "FailedScheduling", note)
	now := pods.Condition(pod, corev1.PodScheduled)
	if now != nil && now.Status == corev1.ConditionFalse && now.Reason == reason && now.Message == message &&
		now.ObservedGeneration == pod.Generation && pod.Status.NominatedNodeName == nominated {
		return
	}
	changed := pod.DeepCopy()
	changed.Status.NominatedNodeName = nominated
	pods.SetCondition(changed, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
	})
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := pods.PatchStatus(ctx, s.Client, pod, changed); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.Logger.Warn("a pod cannot be told why it waits", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// evict asks the victims to go. Their end wakes the pod that they go for.
func (s *scheduler) evict(ctx context.Context, preemptor *corev1.Pod, v *victims) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	for _, victim := range v.pods {
		pod := victim.pod
		if pod.DeletionTimestamp != nil {
			continue
		}
		marked := pod.DeepCopy()
		pods.SetCondition(marked, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Reason:  corev1.PodReasonPreemptionByScheduler,
			Message: fmt.Sprintf("%s: preempting to accommodate a higher priority pod", preemptor.Spec.SchedulerName),
		})
		if err := pods.PatchStatus(ctx, s.Client, pod, marked); err != nil && !apierrors.IsNotFound(err) {
			s.Logger.Warn("a pod could not be marked as preempted", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		}
		err := s.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // gone, or made again under its name
			s.Logger.Warn("a pod could not be preempted", "pod", pod.Namespace+"/"+pod.Name, "err", err)
			continue
		}
		s.events.Eventf(pod, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", preemptor.UID, v.node)
	}
}

// awaitVolumes takes the volumes that are there for the pod's claims, tells the
// provisioners of the others where the pod will run, and lets it wait: a change
// of a claim wakes it. It keeps its room on the node: a volume that was made where
// its pod then finds no room would hold the pod back for ever.
func (s *scheduler) awaitVolumes(ctx context.Context, it *item, p *candidate, node string) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	n, ok := s.nodes.Get("", node)
	if !ok {
		s.giveUp(it)
		return
	}
	chosen, why := placeVolumes(p.volumes, n)
	retry := why != ""
	for claim, pv := range chosen.bind {
		bound, changed, err := storagehelpers.GetBindVolumeToClaim(pv, claim)
		if err == nil && changed {
			_, err = s.Client.CoreV1().PersistentVolumes().Update(ctx, bound, metav1.UpdateOptions{})
		}
		retry = retry || err != nil
	}
	for _, claim := range chosen.provision {
		s.tellOfProvisioner(p, claim, node)
		if claim.Annotations[storagehelpers.AnnSelectedNode] == node {
			continue
		}
		claim = claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storagehelpers.AnnSelectedNode, node)
		_, err := s.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		retry = retry || err != nil
	}
	if retry {
		s.giveUp(it)
		return
	}
	s.queue.await(it)
}

// giveUp takes a decision back, which is made again soon. Others may have the room meanwhile.
func (s *scheduler) giveUp(it *item) {
	s.state.forget(it.uid)
	s.queue.wake(nil)
	s.queue.wait(it, true)
}

// tellOfProvisioner says that a pod waits for somebody of whom nothing is known here.
func (s *scheduler) tellOfProvisioner(p *candidate, claim *corev1.PersistentVolumeClaim, node string) {
	for _, v := range p.volumes.all {
		if v.claim == claim && v.class != nil && !persistentvolume.Ours(v.class) {
			s.events.Eventf(p.pod, corev1.EventTypeWarning, "FailedScheduling", "Waiting for %s to make the volume of claim %s on node %s: it is not part of Bramble (kubectl describe pvc %[2]s says more).",
				v.class.Provisioner, claim.Name, node)
		}
	}
}
