package worker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/seam"
)

func withSecret(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: name}} }
}

// TestPrivateImage is an image that is here for pods with the Secret "key" alone.
func TestPrivateImage(t *testing.T) {
	away := &seam.UnreachableError{Err: errors.New("no route to host")}
	app := func(policy corev1.PullPolicy) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = policy }
	}
	for _, tt := range []struct {
		name   string
		pod    *corev1.Pod
		err    error // of a pull
		want   string
		event  string
		pulled bool
	}{
		{"its Secret", pod(withSecret("key")), errors.New("x"), "Running app:running/0+", "already present on machine and can be accessed by the pod", false},
		{"no Secret", pod(), errors.New("unauthorized"), "Pending app:ErrImagePull/0", `Failed to pull image "nginx:1": unauthorized`, true},
		{"no Secret, and the registry shows it", pod(), nil, "Running app:running/0+", `Successfully pulled image "nginx:1"`, true},
		{"a Secret that is missing", pod(withSecret("lost")), errors.New("unauthorized"), "Pending app:ErrImagePull/0", "Unable to retrieve some image pull secrets (lost)", true},
		{"Never", pod(app(corev1.PullNever)), nil, "Pending app:ErrImageNeverPull/0", `Container image "nginx:1" is not present with pull policy of Never`, false},
		{"Never, its Secret", pod(app(corev1.PullNever), withSecret("key")), nil, "Running app:running/0+", "already present on machine", false},
		{"no registry", pod(), away, "Pending app:ErrImagePull/0", "no registry was reached", true},
		{"Always, no registry", pod(app(corev1.PullAlways)), away, "Pending app:ErrImagePull/0", "no registry was reached", true},
		{"Always, no registry, its Secret", pod(app(corev1.PullAlways), withSecret("key")), away, "Running app:running/0+", "its registry could not be asked for a newer one", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(n *node) {
				n.images.Private = map[string]string{"nginx:1": "key"}
				n.images.SetError("nginx:1", tt.err)
				n.images.Absent["nginx:1"] = false
				n.m.Set([]*corev1.Pod{tt.pod})
				n.after(time.Second)
				n.expect("u1", tt.want)
				n.sawEvent(tt.event)
				if (n.images.Pulls > 0) != tt.pulled {
					t.Errorf("%d pulls", n.images.Pulls)
				}
			})
		})
	}
}

// TestPulledIsTold: the pod that had an image pulled says so, though all pods are told at once that there is a new image.
func TestPulledIsTold(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.Changed = func() {
			n.m.ObjectsChanged("")
			time.Sleep(time.Millisecond) // the worker is faster
		}
		n.images.Absent = map[string]bool{"nginx:1": true}
		n.m.Set([]*corev1.Pod{pod()})
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
		n.sawEvent(`Pulled: Successfully pulled image "nginx:1"`)
	})
}

// TestMisnamedImage: that a reference names no image is seen before anything is pulled, and while others' pulls take all the room.
func TestMisnamedImage(t *testing.T) {
	for _, policy := range []corev1.PullPolicy{corev1.PullIfNotPresent, corev1.PullAlways, corev1.PullNever} {
		simulate(t, func(n *node) {
			n.images.Delay = time.Hour
			var pods []*corev1.Pod
			for i := range 2 * pullsAtOnce {
				pods = append(pods, pod(func(p *corev1.Pod) {
					p.UID, p.Spec.Containers[0].ImagePullPolicy = types.UID(fmt.Sprint("busy", i)), corev1.PullAlways
				}))
			}
			n.m.Set(append(pods, pod(func(p *corev1.Pod) {
				p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "Bad:1", policy
			})))
			n.after(time.Second)
			n.expect("u1", "Pending app:InvalidImageName/0")
			n.sawEvent(`Warning InspectFailed: Failed to apply default image tag "Bad:1": couldn't parse image name "Bad:1"`)
			n.sawEvent("Warning Failed: Error: InvalidImageName")
			if strings.Contains(strings.Join(n.events, "\n"), `Pulling image "Bad:1"`) {
				t.Error("it says that it pulls")
			}
		})
	}
}

// TestRegistryThatHangs: it takes its own turns and nobody else's, and gives them back when its pods are gone.
func TestRegistryThatHangs(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.Hangs = "slow.example"
		var busy []*corev1.Pod
		for i := range 2 * pullsAtOnce {
			busy = append(busy, pod(func(p *corev1.Pod) {
				c := &p.Spec.Containers[0]
				p.UID, c.Image, c.ImagePullPolicy = types.UID(fmt.Sprint("busy", i)), "slow.example/a:1", corev1.PullAlways
			}))
		}
		other := pod(func(p *corev1.Pod) { p.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways })
		n.m.Set(append(busy, other))
		n.after(time.Second)
		n.expect("u1", "Running app:running/0+")
		n.expect("busy0", "Pending app:ContainerCreating/0")
		n.m.Set([]*corev1.Pod{other})
		n.after(time.Minute)
		n.m.pulls.mu.Lock()
		defer n.m.pulls.mu.Unlock()
		if len(n.m.pulls.from) > 0 {
			t.Errorf("turns are kept for %v", n.m.pulls.from)
		}
	})
}

func TestRegistryOf(t *testing.T) {
	for image, want := range map[string]string{
		"nginx:1": "", "library/nginx:1": "", "docker.io/library/nginx:1": "", "ghcr.io/a/b:1": "ghcr.io", "localhost/a:1": "localhost", "pi:5000/a@sha256:0": "pi:5000",
	} {
		if got := registryOf(image); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
}

// TestPullOfAPrivateImageGoesOn: what changes elsewhere does not end the pull of a pod that may not use what is here.
func TestPullOfAPrivateImageGoesOn(t *testing.T) {
	simulate(t, func(n *node) {
		n.images.Private = map[string]string{"nginx:1": "key"}
		n.images.Delay = time.Minute
		n.m.Set([]*corev1.Pod{pod()})
		for range 50 {
			n.after(time.Second)
			n.m.ObjectsChanged("")
		}
		n.after(15 * time.Second)
		n.expect("u1", "Running app:running/0+")
		if n.images.Pulls != 1 {
			t.Errorf("%d pulls", n.images.Pulls)
		}
	})
}
