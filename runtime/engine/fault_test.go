package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bramble.dev/runtime/testimage"
)

// wrapRunc puts a script in front of runc: it counts its calls and does `action` at the n-th instead of, or after, the
// real thing.
func wrapRunc(t *testing.T, runc string, n int, action string) string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho x >> %[1]s/calls\nif [ $(wc -l < %[1]s/calls) = %d ]; then %s; fi\nexec %s \"$@\"\n", dir, n, action, runc)
	path := filepath.Join(dir, "runc")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRuncFails lets runc fail in several ways at its n-th call: the container is reported as one that could not be
// started, others are not touched, and when all is removed nothing is left.
func TestRuncFails(t *testing.T) {
	for name, action := range map[string]string{
		"refuses":        "exit 1",
		"killed":         "kill -9 $$",
		"fails silently": "exit 0",
		"fails late":     "%s \"$@\"; exit 1", // the container runs, but runc says no
	} {
		for n := 1; n <= 3; n++ {
			t.Run(fmt.Sprintf("%s at call %d", name, n), func(t *testing.T) {
				c := config(t)
				if name == "fails late" {
					c.Runc = wrapRunc(t, c.Runc, n, fmt.Sprintf(action, c.Runc))
				} else {
					c.Runc = wrapRunc(t, c.Runc, n, action)
				}
				e := openEngine(t, c)
				importImage(t, e, testImage, testimage.Options{})
				pod := testPod("faulty", sh("sleep 1000"), sh("sleep 1000"))
				s := runSandbox(t, e, pod)
				failed := 0
				var running []Container
				for i := range 2 {
					ct, err := e.StartContainer(t.Context(), s.ID, containerSpec(e, pod, i))
					var start *StartError
					switch {
					case err == nil:
						running = append(running, ct)
					case errors.As(err, &start) && ct.State == Exited && ct.ExitCode == 128:
						failed++
						if err := e.RemoveContainer(t.Context(), ct.ID); err != nil {
							t.Error(err)
						}
					default:
						t.Errorf("%+v, %v", ct, err)
					}
				}
				for _, ct := range running {
					code, err := e.Exec(t.Context(), ct.ID, []string{"true"}, Streams{})
					if (err != nil || code != 0) && n != 3 {
						t.Errorf("exec: %d, %v", code, err)
					}
					if err != nil {
						failed++
					}
				}
				if failed != 1 {
					t.Errorf("%d calls failed", failed)
				}
				snapshots, _ := e.snap.Snapshots()
				if len(snapshots) != len(running) {
					t.Errorf("%d snapshots for %d containers", len(snapshots), len(running))
				}
				list, _ := e.List(t.Context())
				if len(list[0].Containers) != len(running) {
					t.Errorf("listed %+v", list[0].Containers)
				}
			})
		}
	}
}

// TestSandboxFails lets a sandbox fail at several steps: nothing is left.
func TestSandboxFails(t *testing.T) {
	for name, spoil := range map[string]func(*Config, *SandboxSpec){
		"no network namespace": func(_ *Config, s *SandboxSpec) { s.NetNS = "/no/such/namespace" },
		"shim fails": func(c *Config, _ *SandboxSpec) {
			c.Shim = filepath.Join(c.Dir, "shim")
			_ = os.MkdirAll(c.Dir, 0o700)
			_ = os.WriteFile(c.Shim, []byte("#!/bin/sh\necho it is broken >&2; exit 1\n"), 0o755)
		},
		"pause is no program": func(c *Config, _ *SandboxSpec) {
			c.Pause = filepath.Join(c.Dir, "pause")
			_ = os.MkdirAll(c.Dir, 0o700)
			_ = os.WriteFile(c.Pause, []byte("rubbish"), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t)
			pod := testPod("broken", sh("true"))
			s := SandboxSpec{Pod: pod, Hostname: "broken", NetNS: netns(t)}
			spoil(&c, &s)
			e := openEngine(t, c)
			if _, err := e.RunSandbox(t.Context(), s); err == nil {
				t.Fatal("no error")
			} else {
				t.Log(err)
			}
			for _, dir := range []string{filepath.Join(c.Dir, "pods"), c.RunDir} {
				if entries, _ := os.ReadDir(dir); len(entries) != 0 {
					t.Errorf("left in %s: %v", dir, entries)
				}
			}
			if names, _ := e.cgroup.Names(); len(names) != 0 {
				t.Errorf("cgroups left: %v", names)
			}
		})
	}
}

// TestCloseWhileBusy closes the engine while containers start and end, and opens it again: nothing is lost.
func TestCloseWhileBusy(t *testing.T) {
	c := config(t)
	e := openEngine(t, c)
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("busy", sh("sleep 0.1; exit 11"))
	s := runSandbox(t, e, pod)
	for range 4 {
		spec := containerSpec(e, pod, 0)
		done := make(chan Container, 1)
		go func() {
			ct, err := e.StartContainer(context.Background(), s.ID, spec)
			if err != nil {
				t.Error(err)
			}
			done <- ct
		}()
		time.Sleep(20 * time.Millisecond)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		ct := <-done
		next, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		e = next
		if got := waitExit(t, e, ct.ID); got.ExitCode != 11 {
			t.Errorf("ended as %+v", got)
		}
	}
	defer e.Close()
}
