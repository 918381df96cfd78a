package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"bramble.dev/test/course"
	"bramble.dev/test/hosts"
)

// What the course teaches is seen, chapter by chapter, with its manifests unchanged and both kubectls (scripts/course shows it).
func TestCourse(t *testing.T) {
	t.Parallel() // most of it is waiting
	lab := newLab(t, 3)
	mirror, err := course.StartMirror(lab)
	if err != nil {
		t.Fatal(err)
	}
	defer mirror.Close()
	images := filepath.Join(root, "build/images")
	c := startOn(t, lab, hosts.ClusterOptions{Images: course.Archives(images), AgentArgs: mirror.AgentArgs()})
	if _, err := course.Walk(c.ctx, course.Options{
		Cluster: c.Cluster, Manifests: filepath.Join(root, "configs/manifests"), Images: images, Mirror: mirror,
		OldKubectl: os.Getenv("BRAMBLE_KUBECTL_OLD"), Out: t.Output(),
	}); err != nil {
		t.Error(err)
	}
}
