// Package storage puts on the node what a pod's volumes name, and takes it away with the pod. A kind of volume is one file.
//
// Invariants: everything of a pod lies in one folder named by its UID, which is made before the first mount in it, so that
// what a killed agent left is found by looking; content that the cluster can change (ConfigMaps, Secrets, tokens, fields) lies in
// memory, never on the card, and changes as a whole or not at all.
//
//	v, err := storage.Open(dir, local, objects, log)
//	paths, err := v.Mount(ctx, pod) // again whenever something changed
//	err = v.Unmount(ctx, pod.UID)
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Objects are what volumes show: the cluster's objects as the node knows them, and values that are made here.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	PersistentVolume(name string) (*corev1.PersistentVolume, bool)
	// Provisioned is the folder that a volume is which was made for a claim.
	Provisioned(pv *corev1.PersistentVolume) (Folder, bool)
	// Node is this node; nil while nobody has told of it.
	Node() *corev1.Node
	// Memory is how much a pod may use, in bytes; 0 if that is not known.
	Memory(pod *corev1.Pod) int64
	// Token is a token of the pod's service account.
	Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error)
	// Certificate is a private key of the pod and its certificates, both PEM.
	Certificate(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (key, chain []byte, err error)
	// ClusterTrustBundles are those that the node's pods name.
	ClusterTrustBundles() []*certificatesv1.ClusterTrustBundle
	// ShowImage mounts the files of an image, which has been fetched, at a folder, to be read.
	ShowImage(reference, at string) error
	// Field and Resource are values of the downward API.
	Field(pod *corev1.Pod, ref *corev1.ObjectFieldSelector) (string, error)
	Resource(pod *corev1.Pod, ref *corev1.ResourceFieldSelector) (string, error)
}

// Volumes are the volumes of the pods of one data folder.
type Volumes struct {
	dir     string
	local   string // the folder of this node's provisioned volumes; they outlive pods
	objects Objects
	log     *slog.Logger
	remote  *remote
	naming  sync.Once // of the kernel's NFS client

	mu    sync.Mutex
	users map[string]map[types.UID]bool // of folders in local
}

// Open makes no mount: what an earlier agent mounted for pods stays until Sweep.
func Open(dir, local string, o Objects, log *slog.Logger) (*Volumes, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	v := &Volumes{dir: dir, local: local, objects: o, log: log, remote: newRemote(), users: map[string]map[types.UID]bool{}}
	v.sweepExports()
	return v, nil
}

// volume is one volume of one pod, with what its kind works with.
type volume struct {
	*Volumes
	pod  *corev1.Pod
	name string
	path string // where it appears, unless its kind says otherwise
}

// kind mounts one kind of volume and returns its path on the node. It is called again while the pod runs.
type kind func(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error)

// kinds in the order of their fields' names. A source has exactly one field set; the API sees to it.
var kinds = []struct {
	is    func(*corev1.VolumeSource) bool
	mount kind
	// living content follows the cluster's objects while the pod runs.
	living bool
}{
	{func(s *corev1.VolumeSource) bool { return s.ConfigMap != nil }, mountConfigMap, true},
	{func(s *corev1.VolumeSource) bool { return s.DownwardAPI != nil }, mountDownwardAPI, true},
	{func(s *corev1.VolumeSource) bool { return s.EmptyDir != nil }, mountEmptyDir, false},
	{func(s *corev1.VolumeSource) bool { return s.Ephemeral != nil }, mountEphemeral, false},
	{func(s *corev1.VolumeSource) bool { return s.HostPath != nil }, mountHostPath, false},
	{func(s *corev1.VolumeSource) bool { return s.Image != nil }, mountImage, false},
	{func(s *corev1.VolumeSource) bool { return s.NFS != nil }, mountNFS, false},
	{func(s *corev1.VolumeSource) bool { return s.PersistentVolumeClaim != nil }, mountClaim, false},
	{func(s *corev1.VolumeSource) bool { return s.Projected != nil }, mountProjected, true},
	{func(s *corev1.VolumeSource) bool { return s.Secret != nil }, mountSecret, true},
}

// Mount makes all volumes of the pod and gives their paths by name. It is idempotent, and brings living content up to date.
func (v *Volumes) Mount(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	if err := os.MkdirAll(v.podDir(pod.UID), 0o750); err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	paths := map[string]string{}
	for i := range pod.Spec.Volumes {
		s := &pod.Spec.Volumes[i]
		path, err := v.mount(ctx, pod, s)
		var away *elsewhereError
		if errors.As(err, &away) {
			return nil, away // it has words of its own
		}
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", s.Name, err)
		}
		paths[s.Name] = path
	}
	return paths, nil
}

func (v *Volumes) mount(ctx context.Context, pod *corev1.Pod, s *corev1.Volume) (string, error) {
	for _, k := range kinds {
		if k.is(&s.VolumeSource) {
			return k.mount(ctx, v.volume(pod, s.Name), &s.VolumeSource)
		}
	}
	return "", unsupported(&s.VolumeSource)
}

func (v *Volumes) volume(pod *corev1.Pod, name string) volume {
	return volume{Volumes: v, pod: pod, name: name, path: filepath.Join(v.podDir(pod.UID), name)}
}

// Refresh brings the living content of a running pod up to date. What is missing now stays as it was.
func (v *Volumes) Refresh(ctx context.Context, pod *corev1.Pod) error {
	var errs []error
	for i := range pod.Spec.Volumes {
		s := &pod.Spec.Volumes[i]
		for _, k := range kinds {
			if !k.living || !k.is(&s.VolumeSource) {
				continue
			}
			if _, err := k.mount(ctx, v.volume(pod, s.Name), &s.VolumeSource); err != nil {
				errs = append(errs, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", s.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Unmount takes away all of a pod. Data that outlives pods is behind mounts, which are undone before anything is removed.
func (v *Volumes) Unmount(ctx context.Context, uid types.UID) error {
	dir := v.podDir(uid)
	defer v.letGo(uid)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	v.remote.leave(uid)
	defer v.remote.left(uid)
	if err := v.remote.stopMounting(dir); err != nil {
		return fmt.Errorf("UnmountVolume.TearDown failed for pod %s: %w", uid, err)
	}
	if err := v.unmountBelow(ctx, uid); err != nil {
		return fmt.Errorf("UnmountVolume.TearDown failed for pod %s: %w", uid, err)
	}
	if err := removeAll(dir); err != nil {
		return fmt.Errorf("UnmountVolume.TearDown failed for pod %s: %w", uid, err)
	}
	return nil
}

// Sweep takes away what is left of all other pods.
func (v *Volumes) Sweep(ctx context.Context, keep []types.UID) error {
	kept := map[string]bool{}
	for _, uid := range keep {
		kept[string(uid)] = true
	}
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	errs := make([]error, len(entries))
	var wg sync.WaitGroup
	for i, e := range entries { // at once: each may have to wait for a server that is away
		if e.Name() != exports && e.Name() != client && !kept[e.Name()] {
			wg.Go(func() { errs[i] = v.Unmount(ctx, types.UID(e.Name())) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Folder is where a volume of a pod appears that has no place of its own elsewhere: an emptyDir.
func (v *Volumes) Folder(uid types.UID, volume string) string {
	return filepath.Join(v.podDir(uid), volume)
}

// podDir of a UID: one that names another folder is an error of whoever made it, and leads nowhere.
func (v *Volumes) podDir(uid types.UID) string {
	return filepath.Join(v.dir, filepath.Base("/"+string(uid)))
}
