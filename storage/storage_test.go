package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cluster is what the node knows.
type cluster struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string]string
	claims     map[string]*corev1.PersistentVolumeClaim
	volumes    map[string]*corev1.PersistentVolume
	bundles    []*certificatesv1.ClusterTrustBundle
	token      string
	memory     int64
}

func (c *cluster) Node() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelHostname: "here"}}}
}

func (c *cluster) Memory(*corev1.Pod) int64 { return c.memory }

func (c *cluster) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	data, ok := c.configMaps[name]
	return &corev1.ConfigMap{Data: data}, ok
}

func (c *cluster) Secret(_, name string) (*corev1.Secret, bool) {
	data, ok := c.secrets[name]
	s := &corev1.Secret{Data: map[string][]byte{}}
	for k, v := range data {
		s.Data[k] = []byte(v)
	}
	return s, ok
}

func (c *cluster) PersistentVolumeClaim(_, name string) (*corev1.PersistentVolumeClaim, bool) {
	p, ok := c.claims[name]
	return p, ok
}

func (c *cluster) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	p, ok := c.volumes[name]
	return p, ok
}

func (c *cluster) ClusterTrustBundles() []*certificatesv1.ClusterTrustBundle { return c.bundles }

func (c *cluster) ShowImage(reference, at string) error {
	return os.WriteFile(filepath.Join(at, "shown"), []byte(reference), 0o644)
}

func (c *cluster) Provisioned(pv *corev1.PersistentVolume) (Folder, bool) {
	return Folder{Name: pv.Name, Mode: 0o777}, strings.HasPrefix(pv.Name, "pvc-")
}

func (c *cluster) Token(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error) {
	if c.token == "" {
		return "", fmt.Errorf("no server answers yet")
	}
	return c.token, nil
}

func (c *cluster) Certificate(context.Context, *corev1.Pod, *corev1.PodCertificateProjection) (key, chain []byte, err error) {
	return []byte("key+"), []byte("chain"), nil
}

func (c *cluster) Field(pod *corev1.Pod, ref *corev1.ObjectFieldSelector) (string, error) {
	if ref.FieldPath == "metadata.name" {
		return pod.Name, nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %s", ref.FieldPath)
}

func (c *cluster) Resource(*corev1.Pod, *corev1.ResourceFieldSelector) (string, error) {
	return "1", nil
}

// The tests mount: they run in a process with mounts of its own, which end with it.
func TestMain(m *testing.M) {
	if os.Getenv("BRAMBLE_STORAGE_MOUNTS") == "" {
		os.Exit(inNewMounts())
	}
	os.Exit(m.Run())
}

// inNewMounts runs this test binary again as a child that has mounts of its own.
func inNewMounts() int {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		fmt.Fprintln(os.Stderr, "these tests mount, and need root:", err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		fmt.Fprintln(os.Stderr, "private mounts:", err)
		return 1
	}
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Env: append(os.Environ(), "BRAMBLE_STORAGE_MOUNTS=1"), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	state, err := p.Wait()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return state.ExitCode()
}

func open(t *testing.T, c *cluster) *Volumes {
	t.Helper()
	v, err := Open(filepath.Join(t.TempDir(), "volumes"), filepath.Join(t.TempDir(), "local"), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Sweep(context.Background(), nil); err != nil {
			t.Error(err)
		}
		if left, _ := mountsBelow(v.dir); len(left) > 0 {
			t.Errorf("still mounted: %v", left)
		}
	})
	return v
}

func podWith(source corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "uid-1"},
		Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: source}}, Containers: []corev1.Container{{Name: "c"}}}}
}

// tree prints what a container would see: name, mode and content, following links.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	var walk func(rel string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			name := filepath.Join(rel, e.Name())
			if strings.HasPrefix(name, "..") {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(name)
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %o %s\n", name, info.Mode().Perm(), data)
		}
	}
	walk("")
	return b.String()
}

func ptr[T any](v T) *T { return &v }

func TestMount(t *testing.T) {
	host := t.TempDir()
	c := &cluster{
		configMaps: map[string]map[string]string{"conf": {"a": "1", "b": "2"}},
		secrets:    map[string]map[string]string{"sec": {"user": "admin"}},
		token:      "jwt",
		claims: map[string]*corev1.PersistentVolumeClaim{
			"bound":   {ObjectMeta: metav1.ObjectMeta{UID: "c1"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}},
			"p-v":     {ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p-v", UID: "c1"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}},
			"waiting": {Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}},
		},
		volumes: map[string]*corev1.PersistentVolume{"pv": {Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "c1"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: host}}}}},
	}
	for node, uid := range map[string]types.UID{"here": "c2", "elsewhere": "c3"} {
		c.claims["on "+node] = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{UID: uid},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-" + node}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-" + node}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: uid}}}
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
		c.volumes[pv.Name] = pv
	}
	if err := os.WriteFile(filepath.Join(host, "kept"), []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe") // nobody writes to it
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	configMap := func(name string, s corev1.ConfigMapVolumeSource) corev1.VolumeSource {
		s.Name = name
		return corev1.VolumeSource{ConfigMap: &s}
	}
	tests := []struct {
		name   string
		source corev1.VolumeSource
		want   string
		err    string
	}{
		{name: "config map", source: configMap("conf", corev1.ConfigMapVolumeSource{}), want: "a 644 1\nb 644 2\n"},
		{name: "items and modes", source: configMap("conf", corev1.ConfigMapVolumeSource{DefaultMode: ptr(int32(0o400)), Items: []corev1.KeyToPath{{Key: "a", Path: "deep/er/x"}, {Key: "b", Path: "y", Mode: ptr(int32(0o600))}}}),
			want: "deep/er/x 400 1\ny 600 2\n"},
		{name: "paths that are not clean", source: configMap("conf", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "a", Path: "./x"}, {Key: "b", Path: "y//./z"}}}), want: "x 644 1\ny/z 644 2\n"},
		{name: "a path that hides", source: configMap("conf", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "a", Path: "./..2026"}}}), err: `must not start with ".."`},
		{name: "missing", source: configMap("none", corev1.ConfigMapVolumeSource{}), err: `MountVolume.SetUp failed for volume "v" : configmap "none" not found`},
		{name: "missing and optional", source: configMap("none", corev1.ConfigMapVolumeSource{Optional: ptr(true)}), want: ""},
		{name: "missing key", source: configMap("conf", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}), err: "configmap references non-existent config key: z"},
		{name: "path that leads out", source: configMap("conf", corev1.ConfigMapVolumeSource{Items: []corev1.KeyToPath{{Key: "a", Path: "x/../../y"}}}), err: `must not contain ".."`},
		{name: "secret", source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec"}}, want: "user 644 admin\n"},
		{name: "secret without the key", source: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec", Items: []corev1.KeyToPath{{Key: "z", Path: "z"}}}}, err: "references non-existent secret key: z"},
		{name: "downward", source: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}, want: "name 644 p\n"},
		{name: "projected", source: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/s", CredentialBundlePath: "tls/bundle", KeyPath: "tls/key"}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, Items: []corev1.KeyToPath{{Key: "a", Path: "ca.crt"}}}},
		}}}, want: "ca.crt 644 1\ntls/bundle 644 key+chain\ntls/key 644 key+\ntoken 644 jwt\n"},
		{name: "empty", source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, want: ""},
		{name: "empty in memory", source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}}, want: ""},
		{name: "huge pages", source: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages"}}, err: "emptyDir.medium"},
		{name: "claim", source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "bound"}}, want: "kept 644 data\n"},
		{name: "claim of this node", source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "on here"}}, want: ""},
		{name: "claim of another node", source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "on elsewhere"}},
			err: `MountVolume.NodeAffinity check failed for volume "pvc-elsewhere" : no matching NodeSelectorTerms`},
		{name: "claim that waits", source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "waiting"}}, err: "is not bound"},
		{name: "another's claim in place of the volume's own", source: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}, err: "PVC default/p-v was not created for pod default/p (pod is not owner)"},
		{name: "claim that is not there", source: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "none"}}, err: `persistentvolumeclaim "none" not found`},
		{name: "host", source: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: ptr(corev1.HostPathDirectory)}}, want: "kept 644 data\n"},
		{name: "host path of another type", source: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: ptr(corev1.HostPathFile)}}, err: "hostPath type check failed: " + host + " is not a file"},
		{name: "a pipe in place of a file", source: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: pipe, Type: ptr(corev1.HostPathFileOrCreate)}}, err: "hostPath type check failed: " + pipe + " is not a file"},
		{name: "a folder in place of a file", source: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host, Type: ptr(corev1.HostPathFileOrCreate)}}, err: "hostPath type check failed: " + host + " is not a file"},
		{name: "a cloud's disk", source: corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{}}, err: "the driver for awsElasticBlockStore volumes (ebs.csi.aws.com) is not part of Bramble: use a PersistentVolumeClaim"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := open(t, c)
			for range 2 { // the second time finds everything as it is
				paths, err := v.Mount(t.Context(), podWith(tt.source))
				if tt.err != "" {
					if err == nil || !strings.Contains(err.Error(), tt.err) {
						t.Fatalf("error %v, want %q", err, tt.err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := tree(t, paths["v"]); got != tt.want {
					t.Fatalf("got\n%swant\n%s", got, tt.want)
				}
			}
		})
	}
	if _, err := os.Stat(filepath.Join(host, "kept")); err != nil {
		t.Fatalf("the host's file is gone with the pods: %v", err)
	}
}

// A reader that follows ..data sees the old files or the new ones, and the folder of the version it opened stays whole.
func TestRefresh(t *testing.T) {
	c := &cluster{configMaps: map[string]map[string]string{"conf": {"a": "old", "gone": "x"}}}
	v := open(t, c)
	pod := podWith(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}})
	paths, err := v.Mount(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.Readlink(filepath.Join(paths["v"], "..data"))
	if err := v.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(filepath.Join(paths["v"], "..data")); after != before {
		t.Fatal("a refresh without a change wrote")
	}
	c.configMaps["conf"] = map[string]string{"a": "new", "b": "more"}
	if err := v.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got, want := tree(t, paths["v"]), "a 644 new\nb 644 more\n"; got != want {
		t.Fatalf("got\n%swant\n%s", got, want)
	}
	if _, err := os.Stat(filepath.Join(paths["v"], before)); !os.IsNotExist(err) {
		t.Fatal("the old version is still there")
	}
	delete(c.configMaps, "conf")
	if err := v.Refresh(t.Context(), pod); err == nil {
		t.Fatal("a ConfigMap that is gone is no error")
	}
	if got, want := tree(t, paths["v"]), "a 644 new\nb 644 more\n"; got != want {
		t.Fatalf("what the pod has is gone: %s", got)
	}
}

func TestGroupAndUser(t *testing.T) {
	c := &cluster{token: "jwt", configMaps: map[string]map[string]string{}}
	v := open(t, c)
	source := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}
	pod := podWith(source)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(1234))}
	paths, err := v.Mount(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := owner(t, paths["v"]+"/token"), "0:1234 640"; got != want {
		t.Errorf("with fsGroup: %s, want %s", got, want)
	}
	pod = podWith(source)
	pod.UID, pod.Spec.SecurityContext = "uid-2", &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000))}
	if paths, err = v.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got, want := owner(t, paths["v"]+"/token"), "1000:0 600"; got != want {
		t.Errorf("with one user: %s, want %s", got, want)
	}
	if err := v.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	pod.UID, pod.Spec.SecurityContext.FSGroup = "uid-3", ptr(int64(1234))
	if paths, err = v.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got, want := owner(t, paths["v"]+"/token"), "1000:1234 640"; got != want {
		t.Errorf("with both: %s, want %s", got, want)
	}
}

// A volume in which the pod writes gets its group before the pod starts, and is left alone after that: also by the agent that
// comes after a killed one.
// What a volume holds is given to the group, whatever it is, and what its links lead to is not.
func TestOwn(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
	for path, mode := range map[string]os.FileMode{outside: 0o600, filepath.Join(dir, "a/b/deep"): 0o600, filepath.Join(dir, "not utf-8 \xff"): 0o640} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(outside, filepath.Join(dir, "out")), os.Symlink(filepath.Dir(outside), filepath.Join(dir, "a/up")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := own(dir, 1234, groupWrites); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir: "1234 drwxrws---", filepath.Join(dir, "a/b"): "1234 drwxrws---", filepath.Join(dir, "a/b/deep"): "1234 -rw-rw----", filepath.Join(dir, "pipe"): "1234 prw-rw----",
		filepath.Join(dir, "not utf-8 \xff"): "1234 -rw-rw----", outside: "0 -rw-------",
	} {
		var st unix.Stat_t
		info, err := os.Lstat(path)
		if err := errors.Join(err, unix.Lstat(path, &st)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%d %s", st.Gid, unixMode(info.Mode())); got != want {
			t.Errorf("%q is %s, want %s", path, got, want)
		}
	}
}

// unixMode writes a mode as ls does.
func unixMode(m os.FileMode) string {
	s := []byte("-" + m.Perm().String()[1:])
	switch {
	case m.IsDir():
		s[0] = 'd'
	case m&os.ModeNamedPipe != 0:
		s[0] = 'p'
	}
	if m&os.ModeSetgid != 0 {
		s[6] = 's'
	}
	return string(s)
}

func TestGroupOnce(t *testing.T) {
	local := t.TempDir()
	claim := func(policy corev1.PodFSGroupChangePolicy) *corev1.Pod {
		pod := podWith(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "bound"}})
		pod.UID = types.UID(policy)
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(1234)), FSGroupChangePolicy: &policy}
		return pod
	}
	empty := func(medium corev1.StorageMedium) *corev1.Pod {
		pod := podWith(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}})
		pod.UID = types.UID("empty" + medium)
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(1234))}
		return pod
	}
	c := &cluster{
		claims: map[string]*corev1.PersistentVolumeClaim{"bound": {ObjectMeta: metav1.ObjectMeta{UID: "c1"},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}},
		volumes: map[string]*corev1.PersistentVolume{"pv": {Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "c1"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: local}}}}},
	}
	v := open(t, c)
	for _, pod := range []*corev1.Pod{empty(corev1.StorageMediumDefault), empty(corev1.StorageMediumMemory), claim(corev1.FSGroupChangeAlways)} {
		t.Run(string(pod.UID), func(t *testing.T) {
			paths, err := v.Mount(t.Context(), pod)
			if err != nil {
				t.Fatal(err)
			}
			private := filepath.Join(paths["v"], "data")
			if err := os.Mkdir(private, 0o700); err != nil {
				t.Fatal(err)
			}
			again, err := Open(v.dir, v.local, c, v.log)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := again.Mount(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			// The group is inherited from the folder; the mode is the program's.
			if got, want := owner(t, private), "0:1234 700"; got != want {
				t.Errorf("%s, want %s", got, want)
			}
		})
	}
	private := filepath.Join(local, "data")
	if _, err := v.Mount(t.Context(), claim(corev1.FSGroupChangeOnRootMismatch)); err != nil {
		t.Fatal(err)
	}
	if got, want := owner(t, private), "0:1234 700"; got != want {
		t.Errorf("another pod, OnRootMismatch: %s, want %s", got, want)
	}
	pod := claim(corev1.FSGroupChangeAlways)
	pod.UID = "another"
	if _, err := v.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got, want := owner(t, private), "0:1234 770"; got != want {
		t.Errorf("another pod, Always: %s, want %s", got, want)
	}
}

// A folder in memory ends where the pod's memory does, or before.
func TestMemory(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		pod   int64
		limit *resource.Quantity
		want  int64
	}{
		{pod: 8 * mib, want: 8 * mib},
		{pod: 8 * mib, limit: ptr(resource.MustParse("4Mi")), want: 4 * mib},
		{pod: 8 * mib, limit: ptr(resource.MustParse("1Gi")), want: 8 * mib},
		{pod: 8 * mib, limit: ptr(resource.MustParse("0")), want: 8 * mib},
		{limit: ptr(resource.MustParse("4Mi")), want: 4 * mib},
	} {
		v := open(t, &cluster{memory: tt.pod})
		paths, err := v.Mount(t.Context(), podWith(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: tt.limit}}))
		if err != nil {
			t.Fatal(err)
		}
		var s unix.Statfs_t
		if err := unix.Statfs(paths["v"], &s); err != nil {
			t.Fatal(err)
		}
		if got := int64(s.Blocks) * int64(s.Bsize); got != tt.want {
			t.Errorf("of %d and %v: %d bytes, want %d", tt.pod, tt.limit, got, tt.want)
		}
	}
}

// A folder in memory has the mode that tmpfs has by itself, and keeps its sticky bit with an fsGroup: so upstream's pods see them.
func TestModes(t *testing.T) {
	empty := func(medium corev1.StorageMedium) corev1.VolumeSource {
		return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}
	}
	secret := corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}
	c := &cluster{secrets: map[string]map[string]string{"s": {"k": "v"}}}
	v := open(t, c)
	for i, tt := range []struct {
		source  corev1.VolumeSource
		fsGroup *int64
		want    string
	}{
		{empty(corev1.StorageMediumDefault), nil, "drwxrwxrwx"},
		{empty(corev1.StorageMediumDefault), ptr(int64(7)), "dgrwxrwxrwx"},
		{empty(corev1.StorageMediumMemory), nil, "dtrwxrwxrwx"},
		{empty(corev1.StorageMediumMemory), ptr(int64(7)), "dgtrwxrwxrwx"},
		{secret, nil, "dtrwxrwxrwx"},
	} {
		pod := podWith(tt.source)
		pod.UID, pod.Spec.SecurityContext = types.UID(fmt.Sprint(i)), &corev1.PodSecurityContext{FSGroup: tt.fsGroup}
		paths, err := v.Mount(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(paths["v"])
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().String(); got != tt.want {
			t.Errorf("%d: %s, want %s", i, got, tt.want)
		}
	}
}

func owner(t *testing.T, path string) string {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d %o", s.Uid, s.Gid, s.Mode&0o777)
}

// What a killed agent left of pods that are gone is taken away, and nothing of those that are kept.
func TestSweep(t *testing.T) {
	v := open(t, &cluster{})
	memory := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}
	for _, uid := range []types.UID{"a", "b"} {
		pod := podWith(memory)
		pod.UID = uid
		if _, err := v.Mount(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(v.dir, v.local, v.objects, v.log)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Sweep(t.Context(), []types.UID{"b"}); err != nil {
		t.Fatal(err)
	}
	left, err := mountsBelow(v.dir)
	if err != nil || len(left) != 1 || left[0] != filepath.Join(v.dir, "b", "v") {
		t.Fatalf("mounted: %v, %v", left, err)
	}
}

func TestNFSOptions(t *testing.T) {
	newest := []string{"4.2", "4.1", "4.0"}
	tests := []struct {
		readOnly bool
		options  []string
		want     export
	}{
		{false, nil, export{flags: unix.MS_NOSUID | unix.MS_NODEV, data: "addr=192.0.2.1,hard", versions: newest}},
		{true, []string{"nfsvers=4.1", "soft", "timeo=50"}, export{flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY, data: "addr=192.0.2.1,soft,timeo=50", versions: []string{"4.1"}}},
		{false, []string{"ro", "noatime", "addr=203.0.113.9"}, export{flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY | unix.MS_NOATIME, data: "addr=192.0.2.1,hard", versions: newest}},
		{false, []string{"nfsvers=4", "noexec"}, export{flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, data: "addr=192.0.2.1,hard", versions: newest}},
	}
	for _, tt := range tests {
		if got := nfsOptions("192.0.2.1", tt.readOnly, tt.options); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%v: got %+v, want %+v", tt.options, got, tt.want)
		}
	}
}
