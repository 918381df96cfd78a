package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/internal/upstream"
)

var pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"}}

// ask asks a container at an address once.
func ask(t *testing.T, ip string, p corev1.Probe, exec func(context.Context, string, []string, seam.Streams) (int, error)) answer {
	t.Helper()
	if p.TimeoutSeconds == 0 {
		p.TimeoutSeconds = 5
	}
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "named", ContainerPort: 1}}, Env: []corev1.EnvVar{{Name: "WHO", Value: "me"}}}
	w := &watch{m: New(Config{Exec: exec}), pod: pod, target: Target{Container: c, ID: "id", IP: ip}}
	return w.once(t.Context(), &p)
}

func httpGet(address, path string, headers ...corev1.HTTPHeader) corev1.Probe {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(int32(n)), HTTPHeaders: headers}}}
}

func TestHTTP(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			fmt.Fprintf(w, "%s %s %s", r.UserAgent(), r.Header.Get("X-Own"), r.Host)
		case "/bad":
			w.WriteHeader(500)
			io.WriteString(w, "secret of the container")
		case "/near":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/far":
			http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
		}
	}))
	defer s.Close()
	address := s.Listener.Addr().String()
	own := corev1.HTTPHeader{Name: "X-Own", Value: "1"}
	host := corev1.HTTPHeader{Name: "Host", Value: "name.example"}
	if got := ask(t, "127.0.0.1", httpGet(address, "/ok", own, host), nil); !got.ok || got.output != "kube-probe/"+upstream.Major+"."+upstream.Minor+" 1 name.example" {
		t.Errorf("%+v", got)
	}
	if got := ask(t, "127.0.0.1", httpGet(address, "/bad"), nil); got.ok || got.err != nil || got.output != "HTTP probe failed with statuscode: 500" {
		t.Errorf("%+v", got)
	}
	if got := ask(t, "127.0.0.1", httpGet(address, "/near"), nil); !got.ok || got.warning {
		t.Errorf("%+v", got)
	}
	if got := ask(t, "127.0.0.1", httpGet(address, "/far"), nil); !got.ok || !got.warning {
		t.Errorf("%+v", got)
	}
	s.Close()
	if got := ask(t, "127.0.0.1", httpGet(address, "/ok"), nil); got.ok || got.err != nil || !strings.Contains(got.output, "connection refused") {
		t.Errorf("%+v", got)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := intstr.FromInt32(int32(l.Addr().(*net.TCPAddr).Port))
	p := corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}}}
	if got := ask(t, "127.0.0.1", p, nil); !got.ok {
		t.Errorf("%+v", got)
	}
	l.Close()
	if got := ask(t, "127.0.0.1", p, nil); got.ok || got.err != nil {
		t.Errorf("%+v", got)
	}
	p.TCPSocket.Port = intstr.FromString("nameless")
	if got := ask(t, "127.0.0.1", p, nil); got.err == nil {
		t.Errorf("%+v", got)
	}
}

func TestExec(t *testing.T) {
	p := corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check", "$(WHO)"}}}}
	code := 0
	run := func(_ context.Context, id string, cmd []string, s seam.Streams) (int, error) {
		fmt.Fprintf(s.Stdout, "%s %v", id, cmd)
		return code, nil
	}
	if got := ask(t, "", p, run); !got.ok || got.output != "id [check me]" {
		t.Errorf("%+v", got)
	}
	code = 1
	if got := ask(t, "", p, run); got.ok || got.err != nil {
		t.Errorf("%+v", got)
	}
	if got := ask(t, "", p, func(context.Context, string, []string, seam.Streams) (int, error) { return 0, errors.New("no runtime") }); got.err == nil {
		t.Errorf("%+v", got)
	}
	for _, tt := range []struct{ out, bad, want string }{
		{"two", "one", "twoone"},
		{strings.Repeat("o", maxOutput-1), "bad", strings.Repeat("o", maxOutput-1) + "b"},
		{strings.Repeat("o", maxOutput+1), "bad", strings.Repeat("o", maxOutput)},
		{"", strings.Repeat("b", maxOutput+1), strings.Repeat("b", maxOutput)},
	} {
		if got := ask(t, "", p, func(_ context.Context, _ string, _ []string, s seam.Streams) (int, error) {
			io.WriteString(s.Stderr, tt.bad)
			io.WriteString(s.Stdout, tt.out)
			return 1, nil
		}); got.ok || got.output != tt.want {
			t.Errorf("%.10q and %.10q are %d bytes, %.10q", tt.out, tt.bad, len(got.output), got.output)
		}
	}
	p.TimeoutSeconds = 1
	if got := ask(t, "", p, func(ctx context.Context, _ string, _ []string, _ seam.Streams) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}); got.ok || got.err != nil || got.output != `command timed out: "check me" timed out after 1s` {
		t.Errorf("%+v", got)
	}
}

// TestThresholdsAndOrder: nothing but the startup probe is asked until it has succeeded, and
// results change only at their thresholds.
func TestThresholdsAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked, good := map[string]int{}, map[string]bool{"startup": false, "ready": true, "live": true}
		set := func(name string, ok bool) { mu.Lock(); good[name] = ok; mu.Unlock() }
		count := func(name string) int { mu.Lock(); defer mu.Unlock(); return asked[name] }
		m := New(Config{Exec: func(_ context.Context, _ string, cmd []string, _ seam.Streams) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			asked[cmd[0]]++
			if good[cmd[0]] {
				return 0, nil
			}
			return 1, nil
		}, Changed: func(types.UID) {}})
		defer m.Close()
		probe := func(name string, failure, success int32) *corev1.Probe {
			return &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, FailureThreshold: failure, SuccessThreshold: success, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}}
		}
		c := &corev1.Container{Name: "c", StartupProbe: probe("startup", 6, 1), ReadinessProbe: probe("ready", 1, 2), LivenessProbe: probe("live", 3, 1)}
		m.Set(pod, []Target{{Container: c, ID: "id", StartedAt: time.Now()}})
		after := func(d time.Duration, want status.Probes) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := m.Results("u")["id"]; got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		after(25*time.Second, status.Probes{})
		if count("ready") != 0 || count("live") != 0 {
			t.Error("asked before the container has started")
		}
		set("startup", true)
		after(10*time.Second, status.Probes{Startup: status.Success, Liveness: status.Success})
		after(10*time.Second, status.Probes{Startup: status.Success, Liveness: status.Success, Readiness: status.Success})
		if count("startup") != 4 {
			t.Errorf("the startup probe is asked %d times", count("startup"))
		}
		set("live", false)
		after(20*time.Second, status.Probes{Startup: status.Success, Liveness: status.Success, Readiness: status.Success})
		after(10*time.Second, status.Probes{Startup: status.Success, Liveness: status.Failure, Readiness: status.Success})
		n := count("live")
		after(time.Minute, status.Probes{Startup: status.Success, Liveness: status.Failure, Readiness: status.Success})
		if count("live") != n {
			t.Error("asked again after it failed for good")
		}
		m.Set(pod, nil)
		synctest.Wait()
		if len(m.Results("u")) != 0 {
			t.Error("results of a container that is gone")
		}
	})
}
