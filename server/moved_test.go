package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/server/store"
	"bramble.dev/server/store/etcd"
	realetcd "bramble.dev/test/etcd"
)

const things = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Namespaced",
"names":{"plural":"things","singular":"thing","kind":"Thing","listKind":"ThingList"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`

// fill makes objects of several sorts.
func fill(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	ctx := t.Context()
	for i := range 150 { // more than one transaction
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}, Data: map[string]string{"v": strings.Repeat("x", 100*i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "hunter2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Namespace: "default", Name: "web"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	raw := client.Discovery().RESTClient()
	if err := raw.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(things)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a custom resource is served", func() bool {
		return raw.Post().AbsPath("/apis/example.com/v1/namespaces/default/things").SetHeader("Content-Type", "application/json").
			Body([]byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"one"},"spec":{"a":1}}`)).Do(ctx).Error() == nil
	})
}

// holds compares what a server shows with what fill made.
func holds(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	ctx := t.Context()
	list, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := 0
	for _, m := range list.Items {
		var i int
		if n, _ := fmt.Sscanf(m.Name, "m%d", &i); n == 1 && m.Data["v"] == strings.Repeat("x", 100*i) {
			there++
		}
	}
	if there != 150 {
		t.Errorf("%d of 150 ConfigMaps are as they were", there)
	}
	if s, err := client.CoreV1().Secrets("default").Get(ctx, "s", metav1.GetOptions{}); err != nil || string(s.Data["password"]) != "hunter2" {
		t.Errorf("the Secret: %v, %v", s, err)
	}
	s, err := client.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
	if err != nil || s.Spec.Ports[0].NodePort == 0 {
		t.Errorf("the Service: %v, %v", s, err)
	}
	if _, err := client.NetworkingV1().IPAddresses().Get(ctx, s.Spec.ClusterIP, metav1.GetOptions{}); err != nil {
		t.Errorf("the Service's address: %v", err)
	}
	if _, err := client.CoreV1().Events("default").Get(ctx, "e", metav1.GetOptions{}); err != nil {
		t.Errorf("the Event: %v", err)
	}
	text, err := client.Discovery().RESTClient().Get().AbsPath("/apis/example.com/v1/namespaces/default/things/one").Do(ctx).Raw()
	if err != nil || !strings.Contains(string(text), `"a":1`) {
		t.Errorf("the custom resource: %s, %v", text, err)
	}
}

// A cluster moves from a file to etcd and back, with two backups of the same form; both ways its boards and clients are told.
func TestMovedToEtcdAndBack(t *testing.T) {
	work := t.TempDir()
	small, backup, back := filepath.Join(work, "small"), filepath.Join(work, "backup"), filepath.Join(work, "back")
	client, stop := alone(t, small)
	fill(t, client)
	stop()
	if err := Backup(t.Context(), small, nil, backup); err != nil {
		t.Fatal(err)
	}
	o := &etcd.Options{Servers: []string{realetcd.Start(t).URL}, Prefix: "/elsewhere"}
	large := filepath.Join(work, "large")
	if err := Restore(t.Context(), backup, large, o); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), backup, filepath.Join(work, "again"), o); !errors.Is(err, etcd.ErrInUse) {
		t.Errorf("restored over a cluster: %v", err)
	}
	moved := joinAt(t, large, o)
	holds(t, moved)
	if err := Backup(t.Context(), large, o, back); err != nil { // while the server runs
		t.Fatal(err)
	}
	if err := moved.stop(); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(work, "home")
	if err := Restore(t.Context(), back, home, nil); err != nil {
		t.Fatal(err)
	}
	again, stop := alone(t, home)
	holds(t, again)
	stop()

	incarnations := map[string]bool{}
	for _, dir := range []string{small, home} {
		db, err := store.Open(t.Context(), store.Options{Path: databasePath(dir)})
		if err != nil {
			t.Fatal(err)
		}
		incarnations[db.Incarnation()] = true
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	found, _, err := etcd.Find(t.Context(), *o)
	if err != nil {
		t.Fatal(err)
	}
	if incarnations[found.Incarnation] = true; len(incarnations) != 3 {
		t.Errorf("incarnations %v, want three that differ", slices.Collect(maps.Keys(incarnations)))
	}
}

// A restore that was cut short is no cluster, and is begun anew.
func TestRestoreCutShort(t *testing.T) {
	work := t.TempDir()
	small, backup := filepath.Join(work, "small"), filepath.Join(work, "backup")
	client, stop := alone(t, small)
	fill(t, client)
	stop()
	if err := Backup(t.Context(), small, nil, backup); err != nil {
		t.Fatal(err)
	}
	o := &etcd.Options{Servers: []string{realetcd.Start(t).URL}}
	unpacked := t.TempDir()
	if err := unpack(backup, unpacked); err != nil {
		t.Fatal(err)
	}
	cut := errors.New("the plug was pulled")
	if err := etcd.Restore(t.Context(), *o, filepath.Join(unpacked, databaseEntry), "ours", func(string) error { return cut }); !errors.Is(err, cut) {
		t.Fatalf("error %v", err)
	}
	if _, err := etcd.Open(t.Context(), *o, "ours"); !errors.Is(err, etcd.ErrRestoring) {
		t.Errorf("opened in the middle of a restore: %v", err)
	}
	large := filepath.Join(work, "large")
	if err := Restore(t.Context(), backup, large, o); err != nil {
		t.Fatal(err)
	}
	holds(t, joinAt(t, large, o))
}

// alone runs a server on a file until stop.
func alone(t *testing.T, dir string) (client kubernetes.Interface, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := sharedConfig(t, dir, "")
	c.Etcd, c.Broker, c.MQTTListen = nil, "", "127.0.0.1:0"
	ready, ended := make(chan Info, 1), make(chan error, 1)
	c.Ready = func(i Info) { ready <- i }
	go func() { ended <- Run(ctx, c) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	}
	select {
	case i := <-ready:
		return i.Admin, stop
	case err := <-ended:
		t.Fatalf("the server did not start: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("the server is not ready after two minutes")
	}
	return nil, nil
}
