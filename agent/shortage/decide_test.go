package shortage

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/seam"
)

// using makes a pod that asks for memory and disk, with what it uses.
func using(name string, priority int32, request string, memory, written int64) *Use {
	p := &corev1.Pod{}
	p.Name, p.UID, p.Spec.Priority = name, types.UID(name), &priority
	c := corev1.Container{Name: "c"}
	if request != "" {
		q := resource.MustParse(request)
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: q, corev1.ResourceEphemeralStorage: q}
	}
	p.Spec.Containers = []corev1.Container{c}
	return &Use{Pod: p, Counted: true, Memory: memory << 20, Pids: memory, Containers: []ContainerUse{{Name: "c", Memory: memory << 20, Written: Amount{written << 20, written * 10}}}}
}

func TestRank(t *testing.T) {
	pods := []*Use{
		using("modest", 0, "100Mi", 50, 20),
		using("hog", 0, "", 60, 0),
		using("hog-that-asked", 0, "50Mi", 100, 90),
		using("important-hog", 1000, "", 500, 300),
		using("critical", systemCritical, "", 900, 900),
		using("humble", -5, "", 5, 30),
	}
	uncounted := using("uncounted", 5, "", 0, 0)
	uncounted.Counted = false
	for _, tt := range []struct {
		signal Signal
		pods   []*Use
		want   string
	}{
		{MemoryAvailable, pods, "humble hog hog-that-asked important-hog modest"},
		{MemoryAvailable, append(slices.Clone(pods), uncounted), "uncounted humble hog hog-that-asked important-hog modest"},
		{NodeFsAvailable, pods, "humble hog-that-asked important-hog modest"}, // hog has nothing on the disk
		{ImageFsInodes, pods, "humble hog-that-asked modest important-hog"},
		{PIDAvailable, pods, "humble hog-that-asked hog modest important-hog"},
	} {
		var got []string
		for _, u := range worthwhile(tt.pods, tt.signal, false) {
			got = append(got, u.Pod.Name)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.signal, s, tt.want)
		}
	}
	if got := worthwhile(pods, NodeFsAvailable, true); len(got) != 0 {
		t.Errorf("what containers write is on the images' file system, but %d pods would be ended", len(got))
	}
}

func TestMessage(t *testing.T) {
	u := using("p", 0, "50Mi", 100, 90)
	for want, th := range map[string]Threshold{
		"The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. Container c was using 100Mi, request is 50Mi, has larger consumption of memory. ":                      {Signal: MemoryAvailable, Quantity: 100 << 20},
		"The node was low on resource: ephemeral-storage. Threshold quantity: 150Mi, available: 60Mi. Container c was using 90Mi, request is 50Mi, has larger consumption of ephemeral-storage. ": {Signal: ImageFsAvailable, Percent: 15},
	} {
		if got := message(th, Level{60 << 20, 1000 << 20}, u); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got, want := message(Threshold{Signal: NodeFsInodes, Percent: 5}, Level{40, 1000}, u), "The node was low on resource: inodes. Threshold quantity: 50, available: 40. "; got != want {
		t.Errorf("got %s", got)
	}
}

func TestExceeded(t *testing.T) {
	limit := func(q string) *resource.Quantity { v := resource.MustParse(q); return &v }
	volume := func(name string, limit *resource.Quantity, medium corev1.StorageMedium) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: limit, Medium: medium}}}
	}
	limits := func(q string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: *limit(q)}}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Volumes:    []corev1.Volume{volume("free", nil, ""), volume("small", limit("1Mi"), ""), volume("memory", limit("1Ki"), corev1.StorageMediumMemory)},
		Containers: []corev1.Container{{Name: "main", Resources: limits("10Mi")}, {Name: "side", Resources: limits("2Mi")}},
	}}
	mib := func(n int64) Amount { return Amount{Bytes: n << 20} }
	for _, tt := range []struct {
		name  string
		use   Use
		split bool
		want  string
	}{
		{"at the limits", Use{Volumes: map[string]Amount{"small": mib(1), "free": mib(1)}, Containers: []ContainerUse{{Name: "main", Written: mib(8)}, {Name: "side", Logs: mib(2)}}}, false, ""},
		{"a volume", Use{Volumes: map[string]Amount{"small": {Bytes: 1<<20 + 1}}}, false, `Usage of EmptyDir volume "small" exceeds the limit "1Mi". `},
		{"a volume in memory", Use{Volumes: map[string]Amount{"memory": mib(2)}}, false, ""},
		{"a container", Use{Containers: []ContainerUse{{Name: "side", Logs: mib(1), Written: mib(2)}}}, false, `Container side exceeded its local ephemeral storage limit "2Mi". `},
		{"a container, images elsewhere", Use{Containers: []ContainerUse{{Name: "side", Logs: mib(1), Written: mib(2)}}}, true, ""},
		{"the pod", Use{Volumes: map[string]Amount{"free": mib(10)}, Containers: []ContainerUse{{Name: "main", Logs: mib(3)}}}, false, "Pod ephemeral local storage usage exceeds the total limit of containers 12Mi. "},
	} {
		tt.use.Pod = pod
		if got := exceeded(&tt.use, tt.split); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if !limited(pod) || limited(&corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{volume("a", nil, ""), volume("b", limit("1"), corev1.StorageMediumMemory)}}}) {
		t.Error("which pods have limits is not known")
	}
}

func TestRemovable(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	image := func(name string, hours int, imported bool) seam.Image {
		return seam.Image{ID: name, Names: []string{name}, Used: now.Add(-time.Duration(hours) * time.Hour), Imported: imported}
	}
	all := []seam.Image{
		image("docker.io/library/app:1", 5, true), image("docker.io/library/app:2", 3, false), image("docker.io/library/app:3", 9, false),
		image("docker.io/library/db:1", 8, false), image("docker.io/library/db:2", 7, false), image("r.local:5000/x/tool:1", 1, true), image("r.local:5000/x/new:1", 0, false),
	}
	pod := func(image string, ready corev1.ConditionStatus) (*corev1.Pod, corev1.PodStatus) {
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}, corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}
	}
	find := func(ref string) (string, bool) {
		ref = repository(ref) + ref[strings.LastIndex(ref, ":"):]
		return ref, slices.ContainsFunc(all, func(i seam.Image) bool { return i.ID == ref })
	}
	list := func(images []seam.Image) string {
		var out []string
		for _, i := range images {
			out = append(out, i.ID[strings.LastIndex(i.ID, "/")+1:])
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct {
		name             string
		image            string
		ready            corev1.ConditionStatus
		pulled, imported string
	}{
		{"a new version that is good", "app:3", "True", "db:1 db:2 app:2", "app:1 tool:1"},
		{"a new version that is not: the last good one stays", "app:3", "False", "db:1 db:2", "app:1 tool:1"},
		{"a version that is not here", "db:3", "False", "app:3 db:1 app:2", "app:1 tool:1"},
	} {
		d := demand{needed: map[string]bool{}, trying: map[string]bool{}}
		p, s := pod(tt.image, tt.ready)
		d.ask(p, s, nil, find)
		pulled, imported := removable(all, d, DefaultAge, now)
		if list(pulled) != tt.pulled || list(imported) != tt.imported {
			t.Errorf("%s: %q, %q; want %q, %q", tt.name, list(pulled), list(imported), tt.pulled, tt.imported)
		}
	}
}

func TestRepository(t *testing.T) {
	for ref, want := range map[string]string{
		"busybox": "docker.io/library/busybox", "busybox:1": "docker.io/library/busybox", "team/app:2@sha256:abc": "docker.io/team/app",
		"localhost/app": "localhost/app", "r.local:5000/a/b": "r.local:5000/a/b", "r.local:5000/a/b:1": "r.local:5000/a/b", "index.docker.io/a/b": "docker.io/a/b",
	} {
		if got := repository(ref); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
}

// TestSize: links count once and are not followed, and what went meanwhile does not matter.
func TestSize(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, n int) {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := size(t.Context(), dir)
	write("a", 1<<20)
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	for target, name := range map[string]string{"/": "root", "/proc": "proc", "a": "c"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	got := size(t.Context(), dir)
	if grown := got.Bytes - before.Bytes; grown < 1<<20 || grown > 1<<20+64<<10 || got.Inodes != before.Inodes+4 {
		t.Errorf("before %+v, now %+v", before, got)
	}
	if none := size(t.Context(), filepath.Join(dir, "none")); none != (Amount{}) {
		t.Errorf("of nothing: %+v", none)
	}
}
