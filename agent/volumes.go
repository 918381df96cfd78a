package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/catalog"
	"bramble.dev/agent/credential"
	"bramble.dev/agent/events"
	"bramble.dev/agent/podspec"
	"bramble.dev/link"
	"bramble.dev/runtime/container"
	"bramble.dev/storage"
)

// objects is what volumes show: storage.Objects.
type objects struct {
	*catalog.Catalog
	credentials *credential.Credentials
	allocatable func() corev1.ResourceList
	showImage   func(reference, at string) error
}

// ShowImage implements storage.Objects.
func (o objects) ShowImage(reference, at string) error {
	return o.showImage(podspec.ImageRef(reference), at)
}

func (o objects) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return o.credentials.Token(ctx, pod, p)
}

func (o objects) Certificate(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (key, chain []byte, err error) {
	return o.credentials.Certificate(ctx, pod, p)
}

// Memory is the pod's limit, or else what the node has for pods.
func (o objects) Memory(pod *corev1.Pod) int64 {
	given, own := o.allocatable(), container.PodRequirements(pod).Limits
	all, limit := given.Memory().Value(), own.Memory().Value()
	if limit > 0 && (all == 0 || limit < all) {
		return limit
	}
	return all
}

// Field needs no addresses: the API refuses those of a pod in a volume.
func (o objects) Field(pod *corev1.Pod, ref *corev1.ObjectFieldSelector) (string, error) {
	return podspec.Field(pod, ref, podspec.Addresses{})
}

func (o objects) Resource(pod *corev1.Pod, ref *corev1.ResourceFieldSelector) (string, error) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == ref.ContainerName {
				return podspec.Resource(pod, &list[i], ref, o.allocatable())
			}
		}
	}
	return "", fmt.Errorf("container %s not found", ref.ContainerName)
}

// Provisioned implements storage.Objects.
func (o objects) Provisioned(pv *corev1.PersistentVolume) (storage.Folder, bool) { return folderOf(pv) }

// anyone may write into a volume that was made for a claim; fsGroup narrows that.
const anyone fs.FileMode = 0o777

func folderOf(pv *corev1.PersistentVolume) (storage.Folder, bool) {
	by, ok := link.Provisioned(pv)
	if !ok {
		return storage.Folder{}, false
	}
	f := storage.Folder{Name: pv.Name, Mode: anyone}
	if by == link.NFSProvisioner {
		f.Name, f.Server, f.Share, f.Options = path.Base(pv.Spec.NFS.Path), pv.Spec.NFS.Server, path.Dir(pv.Spec.NFS.Path), pv.Spec.MountOptions
	}
	if mode, err := strconv.ParseUint(pv.Annotations[link.VolumeModeAnnotation], 8, 12); err == nil {
		f.Mode = fs.FileMode(mode) & fs.ModePerm
	}
	return f, true
}

// outage tells a pod's reader that the file server of one of its volumes went away or came back. What waits for a server is tried
// again then.
func (a *agent) outage(o storage.Outage) {
	kind, reason := corev1.EventTypeWarning, events.NFSServerAway
	if o.Over {
		kind, reason = corev1.EventTypeNormal, events.NFSServerBack
		a.pods.ObjectsChanged("")
	}
	a.log.Warn("a volume's file server went away or came back", "server", o.Server, "back", o.Over, "uid", o.Pod)
	for _, v := range a.pods.Pods() {
		if v.Pod.UID == o.Pod {
			a.events.Event(events.Pod(v.Pod), kind, reason, o.What)
		}
	}
}

// How long a volume that could not be removed is left alone: twice as long each time.
const (
	firstRemovalRetry = 5 * time.Second
	lastRemovalRetry  = 10 * time.Minute
	inUseRetry        = time.Second
)

// removals removes volumes whose time has come, apart from the workers of pods. What is to be removed lies in the catalog, so
// nothing is forgotten in a restart; what was removed is told until the server asks no more.
type removals struct {
	catalog *catalog.Catalog
	remove  func(context.Context, storage.Folder) error
	report  func(name string, r *link.VolumeReport) // nil: nothing to say any more
	log     *slog.Logger
	changed chan struct{} // capacity 1
}

func (r *removals) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// removal is how far one has come.
type removal struct {
	uid   types.UID
	done  bool
	fails int
	next  time.Time
}

func (r *removals) run(ctx context.Context) {
	known := map[string]*removal{}
	for {
		wait := r.once(ctx, known, time.Now())
		var alarm <-chan time.Time
		if wait > 0 {
			alarm = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-alarm:
		}
	}
}

// once does what is due and says when more will be; 0: not by time alone.
func (r *removals) once(ctx context.Context, known map[string]*removal, now time.Time) (wait time.Duration) {
	wanted := map[string]bool{}
	for _, pv := range r.catalog.Removals() {
		wanted[pv.Name] = true
		it := known[pv.Name]
		if it == nil || it.uid != pv.UID {
			it = &removal{uid: pv.UID}
			known[pv.Name] = it
		}
		if !it.done && !now.Before(it.next) && ctx.Err() == nil {
			r.one(ctx, pv, it, now)
		}
		if left := it.next.Sub(now); !it.done && (wait == 0 || left < wait) {
			wait = max(left, time.Millisecond)
		}
	}
	for name := range known {
		if !wanted[name] {
			delete(known, name)
			r.report(name, nil)
		}
	}
	return wait
}

func (r *removals) one(ctx context.Context, pv *corev1.PersistentVolume, it *removal, now time.Time) {
	f, ok := folderOf(pv)
	err := fmt.Errorf("volume %s was not made by this cluster", pv.Name)
	if ok {
		err = r.remove(ctx, f)
	}
	report := link.VolumeReport{UID: pv.UID}
	if errors.Is(err, storage.ErrInUse) {
		it.next = now.Add(inUseRetry) // a pod that was removed at once still ends here
		return
	}
	if err != nil {
		it.next = now.Add(min(firstRemovalRetry<<min(it.fails, 10), lastRemovalRetry))
		it.fails++
		report.Error = err.Error()
		r.log.Warn("a volume could not be removed and is tried again", "volume", pv.Name, "err", err)
	} else {
		it.done = true
		r.log.Info("a volume and what was in it are removed", "volume", pv.Name, "folder", f.Name)
	}
	r.report(pv.Name, &report)
}
