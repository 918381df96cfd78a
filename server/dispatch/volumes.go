package dispatch

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/link"
)

// removalKey is the item of a volume that a node is to remove. It is not persistentvolumes/<name>: that is one to be mounted.
func removalKey(name string) string { return "volumeremovals/" + name }

// nodeOfRemoval is the index of volumes by the node that is to remove them.
func nodeOfRemoval(pv *corev1.PersistentVolume) []string {
	if node := link.Removes(pv); node != "" {
		return []string{node}
	}
	return nil
}

// writeVolume writes what became of a volume that this node was to remove. Removing the volume itself is for its controller.
func (n *node) writeVolume(ctx context.Context, name string, r link.VolumeReport) error {
	volumes := n.d.cfg.Client.CoreV1().PersistentVolumes()
	pv, err := volumes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return ignoreNotFound(err)
	}
	if pv.UID != r.UID || link.Removes(pv) != n.name {
		return nil // another volume of the name, or another node's by now
	}
	if r.Error == "" {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, link.VolumeRemovedAnnotation, n.name)
		_, err = volumes.Update(ctx, pv, metav1.UpdateOptions{})
		return ignoreNotFound(err)
	}
	if pv.Status.Phase != corev1.VolumeFailed || pv.Status.Message != r.Error {
		pv.Status.Phase, pv.Status.Message = corev1.VolumeFailed, r.Error
		if _, err := volumes.UpdateStatus(ctx, pv, metav1.UpdateOptions{}); err != nil {
			return ignoreNotFound(err)
		}
	}
	return n.writeEvent(ctx, removalFailed(pv, n.name, r.Error, metav1.Now()))
}

// removalFailed is the event of a volume whose node could not remove it.
func removalFailed(pv *corev1.PersistentVolume, node, why string, now metav1.Time) *corev1.Event {
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: fmt.Sprintf("%s.%x", pv.Name, now.Truncate(time.Second).UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			Kind: "PersistentVolume", APIVersion: "v1", Name: pv.Name, UID: pv.UID, ResourceVersion: pv.ResourceVersion,
		},
		Type: corev1.EventTypeWarning, Reason: "VolumeFailedDelete", Message: why, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "persistentvolume-controller", Host: node},
	}
}
