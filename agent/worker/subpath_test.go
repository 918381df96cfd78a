package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/fake"
)

// A subPath leads nowhere but into its volume, whatever links a container made there; and the pod is told why not, and what to mend.
func TestSubPath(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	volume := filepath.Join(dir, "volume")
	for _, d := range []string{outside, filepath.Join(volume, "folder")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"absolute": outside, "up": "../outside", "magic": "/proc/self/root", "circle": "circle", "nowhere": "nothing", "within": "folder", "around": "../volume"} {
		if err := os.Symlink(target, filepath.Join(volume, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(volume, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{}
	pod.UID = "u"
	w := &worker{m: &Manager{}, log: slog.New(slog.DiscardHandler)}
	w.m.Dir, w.m.Volumes = dir, &fake.Volumes{}
	const out, mend = ": the path leads out of the volume", "; mend subPath, or what is in the volume"
	for sub, want := range map[string]string{
		"folder": "", "within": "", "new/deep": "", "file": "", "within/new": "",
		"absolute": out + mend, "up": out + mend, "magic": out + mend, "around": out + mend, "..": out + mend, "folder/../..": out + mend,
		"absolute/new": out + mend, "up/new": out + mend,
		"circle": ": the path has a link that leads in a circle" + mend, "nowhere": ": the path has a link that leads nowhere" + mend,
		"file/x": ": the path leads through a file" + mend, "file/x/y": ": the path leads through a file" + mend,
	} {
		at := place{container: "c", volume: "v", source: volume, sub: sub}
		got, err := w.source(t.Context(), pod, at)
		if want != "" {
			if wanted := `failed to prepare subPath for volumeMount "v" of container "c"` + want; err == nil || err.Error() != wanted {
				t.Errorf("%s: %q, %v\nwant %s", sub, got, err, wanted)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", sub, err)
			continue
		}
		real, err := filepath.EvalSymlinks(filepath.Join(volume, sub))
		if err != nil || !same(t, got, real) {
			t.Errorf("%s is bound to something else: %v", sub, err)
		}
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("made outside of the volume: %v", left)
	}
	if err := w.releaseSubPaths(pod); err != nil {
		t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("left mounted: %v", err)
	}
}

// same tells whether two paths are of one file.
func same(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y unix.Stat_t
	if err := unix.Stat(a, &x); err != nil {
		t.Error(err)
	}
	if err := unix.Stat(b, &y); err != nil {
		t.Error(err)
	}
	return x.Dev == y.Dev && x.Ino == y.Ino
}
