package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

// ensureImage makes an image present: at once if it is, else by a pull that goes on beside.
func (w *worker) ensureImage(ctx context.Context, pod *corev1.Pod, name string) {
	c, _ := podspec.Fetched(pod, name)
	w.past(name, func(p *Past) { *p = p.of(c) })
	ref := podspec.ImageRef(c.Image)
	about := events.Container(pod, name)
	if err := w.m.Images.Misnamed(c.Image); err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		w.m.Events.Event(about, corev1.EventTypeWarning, events.InspectFailed, message)
		w.m.Events.Event(about, corev1.EventTypeWarning, events.Failed, "Error: "+errInvalidName)
		w.startFailed(name, errInvalidName, message)
		return
	}
	secrets, missing := w.pullSecrets(pod)
	if c.ImagePullPolicy != corev1.PullAlways {
		if img, ok := w.m.Images.ResolveFor(ctx, ref, secrets); ok {
			w.m.Events.Eventf(about, corev1.EventTypeNormal, events.Pulled, "Container image %q already present on machine and can be accessed by the pod", c.Image)
			w.past(name, func(p *Past) { p.Image = Image{ID: img.ID} })
			return
		}
	}
	if c.ImagePullPolicy == corev1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		if unfit := w.m.Images.Unfit(ref); unfit != nil {
			message += ": " + unfit.Error()
		}
		w.m.Events.Event(about, corev1.EventTypeWarning, events.ErrImageNeverPull, message)
		w.m.Events.Event(about, corev1.EventTypeWarning, events.Failed, "Error: "+errNeverPull)
		w.startFailed(name, errNeverPull, message)
		return
	}
	w.m.Events.Eventf(about, corev1.EventTypeNormal, events.Pulling, "Pulling image %q", c.Image)
	begun := time.Now()
	var img seam.Image
	var took time.Duration
	w.start(ctx, imageWork(name), Pulling, func(ctx context.Context) error {
		end, err := w.m.pulls.begin(ctx, ref)
		if err != nil {
			return err
		}
		defer end()
		own := time.Now()
		img, err = w.m.Images.Pull(ctx, ref, secrets)
		took = time.Since(own)
		return err
	}, func(err error) {
		if here, ok := w.lastGood(ctx, ref, secrets, err); ok {
			w.m.Events.Eventf(about, corev1.EventTypeWarning, events.Pulled, "Container image %q already present on machine; its registry could not be asked for a newer one: %v", c.Image, err)
			w.past(name, func(p *Past) { p.Image = Image{ID: here.ID} })
			return
		}
		if err != nil {
			w.pullFailed(pod, name, c.Image, missing, err)
			return
		}
		w.m.Events.Eventf(about, corev1.EventTypeNormal, events.Pulled, "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
			c.Image, took.Truncate(time.Millisecond), time.Since(begun).Truncate(time.Millisecond), img.Size)
		w.past(name, func(p *Past) { p.Image = Image{ID: img.ID} })
	})
}

// lastGood is the image that is here, where a pull ended because no registry answered. A site whose link is gone, or an image that
// somebody imported, must start pods whose pull policy is Always (the default of every ":latest"), which upstream's kubelet refuses.
// One that a registry gave only to others' credentials stays theirs.
func (w *worker) lastGood(ctx context.Context, ref string, secrets []*corev1.Secret, err error) (seam.Image, bool) {
	var away *seam.UnreachableError
	if !errors.As(err, &away) {
		return seam.Image{}, false
	}
	return w.m.Images.ResolveFor(ctx, ref, secrets)
}

func (w *worker) pullFailed(pod *corev1.Pod, name, image string, missing []string, err error) {
	about := events.Container(pod, name)
	var away *seam.UnreachableError
	remedy := ""
	if errors.As(err, &away) {
		remedy = "; no registry was reached: `bramble image import` on the board, or a mirror (--mirror), helps without one"
	}
	w.m.Events.Eventf(about, corev1.EventTypeWarning, events.Failed, "Failed to pull image %q: %v%s", image, err, remedy)
	w.m.Events.Event(about, corev1.EventTypeWarning, events.Failed, "Error: "+errImagePull)
	if len(missing) > 0 {
		w.m.Events.Eventf(events.Pod(pod), corev1.EventTypeWarning, events.FailedImagePullSecret,
			"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	w.past(name, func(p *Past) {
		delay := firstBackOff
		if p.Image.BackOff > 0 {
			delay = min(2*p.Image.BackOff, maxBackOff)
		}
		p.Image = Image{Error: err.Error(), FailedAt: time.Now(), BackOff: delay}
		p.Waiting = &status.Waiting{Reason: errImagePull, Message: err.Error()}
	})
}

func (w *worker) pullSecrets(pod *corev1.Pod) (found []*corev1.Secret, missing []string) {
	for _, ref := range pod.Spec.ImagePullSecrets {
		if s, ok := w.m.Objects.Secret(pod.Namespace, ref.Name); ok {
			found = append(found, s)
		} else {
			missing = append(missing, ref.Name)
		}
	}
	return found, missing
}

// startFailed records that a container could not be started.
func (w *worker) startFailed(name, reason, message string) {
	w.past(name, func(p *Past) {
		p.Waiting = &status.Waiting{Reason: reason, Message: message}
		p.NotBefore = time.Now().Add(startRetry)
		p.Image = Image{}
	})
}

func (w *worker) startContainer(ctx context.Context, pod *corev1.Pod, a Action) {
	c, _ := podspec.Find(pod, a.Container)
	view := w.view()
	w.backOff(a.Container, view)
	spec, err := w.spec(ctx, pod, c, a.Attempt, view)
	about := events.Container(pod, a.Container)
	if err != nil {
		if errors.Is(err, errServices) {
			// Right after the start of a new node; not worth an event.
			w.past(a.Container, func(p *Past) { p.NotBefore = time.Now().Add(time.Second) })
			return
		}
		w.m.Events.Eventf(about, corev1.EventTypeWarning, events.Failed, "Error: %v", err)
		w.startFailed(a.Container, errConfig, err.Error())
		return
	}
	sandbox := ""
	if len(view.Sandboxes) > 0 {
		sandbox = view.Sandboxes[0].ID
	}
	release := w.slot(ctx)
	started, err := w.m.Runtime.StartContainer(ctx, sandbox, spec)
	release()
	w.past(a.Container, func(p *Past) { p.Attempt = spec.Attempt + 1 })
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		w.m.Events.Eventf(about, corev1.EventTypeWarning, events.Failed, "Error: %v", err)
		reason := errCreate
		var config *seam.ConfigError
		switch {
		case errors.As(err, &config):
			reason = errConfig
		case started.ID != "": // it was created, and could not be started
			reason = errRun
		}
		w.startFailed(a.Container, reason, err.Error())
		return
	}
	w.m.Events.Event(about, corev1.EventTypeNormal, events.Created, "Container created")
	w.m.Events.Event(about, corev1.EventTypeNormal, events.Started, "Container started")
	if err := dropLogs(filepath.Dir(spec.LogPath), keptLogs); err != nil {
		w.log.Warn("old logs could not be removed", "container", a.Container, "err", err)
	}
	w.past(a.Container, func(p *Past) {
		p.Waiting, p.Stop, p.Image, p.NotBefore, p.BadHook = nil, nil, Image{}, time.Time{}, ""
	})
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		w.postStart(ctx, pod, c, started.ID)
	}
}

// backOff lets the delay of the next restart grow, if this start is one.
func (w *worker) backOff(name string, view View) {
	var newest seam.Container
	for _, s := range view.Sandboxes {
		for _, o := range s.Containers {
			if o.Name == name && (newest.ID == "" || seam.NewestFirst(o, newest) < 0) {
				newest = o
			}
		}
	}
	if newest.ID != "" && newest.State == seam.Exited && newest.ID != w.memory.Containers[name].Again {
		w.past(name, func(p *Past) { *p = p.grown(newest.FinishedAt, time.Now()) })
	}
}

func (w *worker) postStart(ctx context.Context, pod *corev1.Pod, c podspec.Container, id string) {
	ip := w.ip(pod)
	w.start(ctx, id, PostStart, func(ctx context.Context) error {
		return w.m.Hooks.Run(ctx, pod, c.Container, id, ip, c.Lifecycle.PostStart)
	}, func(err error) {
		if err == nil {
			return
		}
		w.log.Info("a postStart hook failed", "container", c.Name, "err", err)
		w.m.Events.Event(events.Container(pod, c.Name), corev1.EventTypeWarning, events.FailedPostStartHook, "PostStartHook failed")
		w.past(c.Name, func(p *Past) {
			p.BadHook = id
			p.Waiting = &status.Waiting{Reason: errPostStart, Message: err.Error()}
		})
	})
}

var errServices = errors.New("services have not yet been read at least once, cannot construct envvars")

// spec is everything that the runtime needs to start a container.
func (w *worker) spec(ctx context.Context, pod *corev1.Pod, c podspec.Container, attempt uint32, view View) (seam.ContainerSpec, error) {
	facts := w.m.Facts()
	services, synced := w.m.Objects.Services()
	if !synced {
		return seam.ContainerSpec{}, errServices
	}
	src := podspec.Sources{
		ConfigMap: w.m.Objects.ConfigMap, Secret: w.m.Objects.Secret, Services: services,
		Addresses:   podspec.Addresses{Pod: w.ips, Host: facts.HostIPs},
		Allocatable: facts.Allocatable, Volumes: w.volumes,
	}
	if pod.Spec.HostNetwork {
		src.Addresses.Pod = facts.HostIPs
	}
	env, err := podspec.Env(pod, c.Container, src)
	if err != nil {
		return seam.ContainerSpec{}, err
	}
	attempt = max(attempt, w.attemptsLogged(pod, c.Name))
	mounts, err := w.mounts(ctx, pod, c, env)
	if err != nil {
		return seam.ContainerSpec{}, err
	}
	spec := seam.ContainerSpec{
		Pod: pod, Container: c.Container, Resources: podspec.Effective(pod, c.Container), Attempt: attempt, ImageID: w.memory.Containers[c.Name].Image.ID, Env: env,
		Mounts: mounts, SpecHash: podspec.Hash(c.Container), LogPath: LogPath(w.m.Dir, pod, c.Name, attempt),
	}
	spec.Command, spec.Args = podspec.Command(c.Command, c.Args, env)
	if c.Target != "" {
		if !runs(view, c.Target) {
			return seam.ContainerSpec{}, fmt.Errorf("unable to find target container %v", c.Target)
		}
		spec.Target = c.Target
	}
	if err := os.MkdirAll(filepath.Dir(spec.LogPath), 0o755); err != nil {
		return seam.ContainerSpec{}, fmt.Errorf("create container log directory for container %s failed: %w", c.Name, err)
	}
	return spec, nil
}

func runs(view View, name string) bool {
	for _, s := range view.Sandboxes {
		for _, o := range s.Containers {
			if o.Name == name && o.State == seam.Running {
				return true
			}
		}
	}
	return false
}
