package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bramble.dev/runtime/testimage"
)

// TestShowImage shows an image to a container: it can be read, not written, and not run, and cannot be removed meanwhile.
func TestShowImage(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	importImage(t, e, "example.com/shown:1", testimage.Options{User: "alice"})
	at := filepath.Join(t.TempDir(), "shown")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := e.ShowImage("example.com/none:1", at); err == nil {
		t.Error("an image that is not here was shown")
	}
	if err := e.ShowImage("example.com/shown:1", at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	pod := testPod("shows", sh("sleep 1000"))
	s := runSandbox(t, e, pod)
	spec := containerSpec(e, pod, 0)
	spec.Mounts = []Mount{{Source: at, Target: "/shown", ReadOnly: true, NoExec: true}}
	c, err := e.StartContainer(t.Context(), s.ID, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := execOut(t, e, c.ID, "ls /shown/bin | grep -c busybox; touch /shown/x 2>/dev/null || echo read-only; /shown/bin/busybox true 2>/dev/null || echo noexec"); !strings.HasSuffix(got, "read-only\nnoexec") || got[0] == '0' {
		t.Errorf("%q", got)
	}
	if err := e.RemoveImage(t.Context(), "example.com/shown:1"); err == nil {
		t.Error("it was removed")
	}
	if err := e.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveImage(t.Context(), "example.com/shown:1"); err != nil {
		t.Error(err)
	}
}
