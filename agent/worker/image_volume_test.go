package worker

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func withImageVolume(p *corev1.Pod) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "model", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "model:1", PullPolicy: corev1.PullAlways}}})
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "model", MountPath: "/model"}}
}

func TestImageVolume(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.SetError("model:1", errors.New("no such image"))
		n.m.Set([]*corev1.Pod{pod(withImageVolume)})
		n.after(time.Second)
		n.expect("u1", "Pending app:ErrImagePull/0")
		n.after(5 * time.Second)
		n.expect("u1", "Pending app:ImagePullBackOff/0")
		n.sawEvent(`Failed to pull image "model:1": no such image`)
		if n.volumes.Mounted["u1"] > 0 {
			t.Error("the volumes are mounted without it")
		}
		n.images.SetError("model:1", nil)
		n.after(30 * time.Second)
		n.expect("u1", "Running app:running/0+")
		n.sawEvent(`Successfully pulled image "model:1"`)
		for _, line := range n.runtime.Log() {
			if strings.Contains(line, "model") {
				t.Errorf("a volume is no container: %s", line)
			}
		}
		pulls := n.images.Pulls
		n.stop() // what is shown stays what it is
		n.start()
		n.m.Set([]*corev1.Pod{pod(withImageVolume)})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
		if n.images.Pulls != pulls {
			t.Error("it was pulled again")
		}
	})
}
