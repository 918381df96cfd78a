package server

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// start runs a whole server on free ports until the test ends.
func start(t *testing.T, dir string) kubernetes.Interface {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan Info, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{
			DataDir: dir, APIListen: "127.0.0.1:0", MQTTListen: "127.0.0.1:0", Domain: "cluster.local",
			PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
			Ready:  func(i Info) { ready <- i },
			Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	select {
	case i := <-ready:
		return i.Admin
	case err := <-ended:
		ended <- nil
		t.Fatalf("the server did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the server is not ready after a minute")
	}
	return nil
}

// testWriter is the server's log. What fails because it asks for an object of no name is a fault of its controller.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(b[:len(b)-1]))
	if bytes.Contains(b, []byte("resource name may not be empty")) {
		w.t.Errorf("%s", b)
	}
	return len(b), nil
}

// eventually waits for what controllers do.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after 30 s", what)
		}
	}
}

// A Deployment becomes pods that stay, and a Service of them one slice that stays.
func TestDeployment(t *testing.T) {
	client := start(t, t.TempDir())
	ctx := t.Context()
	three, labels := int32(3), map[string]string{"app": "web"}
	_, err := client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "busybox"}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	uids := func() map[string]bool {
		found := map[string]bool{}
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods.Items {
			found[string(p.UID)] = true
		}
		slices, err := client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range slices.Items {
			found[string(s.UID)] = true
		}
		return found
	}
	const pods, slices = 3, 1 // a server on a loopback address has no endpoint in default/kubernetes
	var first map[string]bool
	eventually(t, "three pods and a slice", func() bool { first = uids(); return len(first) == pods+slices })
	time.Sleep(2 * time.Second) // long enough for a controller that is wrong about owners to act
	for uid := range uids() {
		if !first[uid] {
			t.Errorf("object %s came later: another was removed that should have stayed", uid)
		}
	}
}
