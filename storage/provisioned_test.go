package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func claimed(c *cluster, name, path string) *corev1.Pod {
	c.claims = map[string]*corev1.PersistentVolumeClaim{"c": {ObjectMeta: metav1.ObjectMeta{UID: "c1"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: name}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}}
	c.volumes = map[string]*corev1.PersistentVolume{name: {ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "c1"}, PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}}}}
	return podWith(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}})
}

// A volume that was made for a claim keeps its content from pod to pod, lies in its own folder whatever path it names, and
// is removed only when no pod has it.
func TestProvisionedFolder(t *testing.T) {
	c := &cluster{}
	v := open(t, c)
	pod := claimed(c, "pvc-1", "/etc")
	paths, err := v.Mount(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(v.local, "pvc-1"); paths["v"] != want {
		t.Fatalf("it is at %s, not %s", paths["v"], want)
	}
	if got, want := owner(t, paths["v"]), "0:0 777"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	kept := filepath.Join(paths["v"], "deep", "kept")
	if err := errors.Join(os.Mkdir(filepath.Dir(kept), 0o700), os.WriteFile(kept, []byte("data"), 0o600)); err != nil {
		t.Fatal(err)
	}
	f := Folder{Name: "pvc-1"}
	if err := v.Remove(t.Context(), f); !errors.Is(err, ErrInUse) {
		t.Fatalf("removed from under a pod: %v", err)
	}
	if err := v.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	pod.UID = "uid-2"
	if _, err := v.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Fatalf("the next pod does not find its data: %v", err)
	}
	if err := v.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is gone already
		if err := v.Remove(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(v.local); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// Neither a name nor a link nor a mount leads to something else being removed.
func TestRemoveNothingElse(t *testing.T) {
	v := open(t, &cluster{})
	other := t.TempDir()
	precious := filepath.Join(other, "precious")
	if err := errors.Join(os.WriteFile(precious, nil, 0o600), os.MkdirAll(v.local, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "/", "../" + filepath.Base(other), "a/b", "/etc"} {
		if err := v.Remove(t.Context(), Folder{Name: name}); err == nil {
			t.Errorf("%q was removed", name)
		}
	}
	if err := os.Symlink(other, filepath.Join(v.local, "link")); err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), Folder{Name: "link"}); err != nil {
		t.Error(err)
	}
	inside := filepath.Join(v.local, "pvc-1", "mnt")
	if err := os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(other, inside, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), Folder{Name: "pvc-1"}); err == nil {
		t.Error("removed through a mount")
	}
	if err := unix.Unmount(inside, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(v.local, "pvc-2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(v.local, "pvc-2", "out")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pvc-1", "pvc-2"} {
		if err := v.Remove(t.Context(), Folder{Name: name}); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(precious); err != nil {
		t.Fatalf("what lay elsewhere is gone: %v", err)
	}
}
