package controllers

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

// The models run whole clusters; rapid's hundred of them take too long for every
// run. Longer ones: go test -rapid.checks=500 ./server/controllers.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = flag.Set("rapid.checks", "15")
	}
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// cluster is a stand-in API with all controllers and a node that runs what it
// is given.
type cluster struct {
	api    *cachetest.API
	client kubernetes.Interface
	caches *cache.Set
	writes atomic.Int64 // of anything but Events
	broken atomic.Bool  // new pods do not become ready
	// peak is the largest number of active pods that was seen.
	mu   sync.Mutex
	peak int
}

type allOnline struct{}

func (allOnline) Online(string) (bool, time.Time) { return true, time.Time{} }
func (allOnline) Held(string) time.Time           { return time.Time{} }
func (allOnline) Changes() <-chan string          { return nil }

func newCluster(t testing.TB) *cluster {
	c := &cluster{api: cachetest.New()}
	c.client = c.api.Client()
	c.caches = c.api.Set(t)
	must(c.client.CoreV1().Nodes().Create(context.Background(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}, metav1.CreateOptions{}))
	c.api.Wrote = func(verb string, gr schema.GroupResource, _ string, _ runtime.Object) {
		if gr.Resource == "events" {
			return
		}
		c.writes.Add(1)
		if gr.Resource == "pods" && verb == "create" {
			c.mu.Lock()
			defer c.mu.Unlock()
			active := 0
			for _, p := range cachetest.All[corev1.Pod](c.api, "", "pods") {
				if pods.IsActive(p) {
					active++
				}
			}
			c.peak = max(c.peak, active)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = Run(ctx, Dependencies{
			Client: func(string) kubernetes.Interface { return c.client }, Metadata: func(string) metadata.Interface { return c.api.Metadata() },
			Caches: c.caches, Presence: allOnline{}, PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), CACertPEM: []byte("ca"),
			Logger: slog.New(slog.DiscardHandler),
		})
	})
	wg.Go(func() { c.runPods(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return c
}

// runPods is scheduler and node in one.
func (c *cluster) runPods(ctx context.Context) {
	changed := make(chan string, 4096)
	stop := c.caches.Pods().OnChange(func(change cache.Change[corev1.Pod]) {
		if change.New != nil {
			changed <- change.New.Namespace + "/" + change.New.Name
		}
	})
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-changed:
			var namespace, name string
			for i := range key {
				if key[i] == '/' {
					namespace, name = key[:i], key[i+1:]
				}
			}
			c.advance(ctx, namespace, name)
		}
	}
}

func (c *cluster) advance(ctx context.Context, namespace, name string) {
	client := c.client.CoreV1().Pods(namespace)
	pod, err := client.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil:
		_ = client.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Target: corev1.ObjectReference{Name: namedNode(pod)}}, metav1.CreateOptions{})
	case pod.DeletionTimestamp != nil:
		now := int64(0)
		_ = client.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	case pod.Status.Phase == corev1.PodPending && !c.broken.Load():
		pod.Status.Phase = corev1.PodRunning
		pod.Status.PodIP = "10.42.0.9"
		pod.Status.PodIPs = []corev1.PodIP{{IP: "10.42.0.9"}}
		pods.SetCondition(pod, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Second))})
		_, _ = client.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	}
}

func web(replicas int32) *appsv1.Deployment {
	one, none, limit, deadline := intstr.FromInt32(1), intstr.FromInt32(0), int32(2), int32(600)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: cachetest.Template("web", "1"), RevisionHistoryLimit: &limit, ProgressDeadlineSeconds: &deadline,
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none}},
		},
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func eventually(t interface{ Fatalf(string, ...any) }, what string, ok func() bool) {
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("timed out waiting until %s", what)
}

// images counts the active pods by image.
func (c *cluster) images() map[string]int {
	out := map[string]int{}
	for _, p := range cachetest.All[corev1.Pod](c.api, "", "pods") {
		if pods.IsActive(p) {
			out[p.Spec.Containers[0].Image]++
		}
	}
	return out
}

func (c *cluster) deployment() *appsv1.Deployment {
	return must(c.client.AppsV1().Deployments("default").Get(context.Background(), "web", metav1.GetOptions{}))
}

// done says that the Deployment is rolled out as kubectl sees it.
func (c *cluster) done() bool {
	d := c.deployment()
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == *d.Spec.Replicas && s.AvailableReplicas == *d.Spec.Replicas
}

// change updates the Deployment until nobody was in the way.
func (c *cluster) change(f func(*appsv1.Deployment)) {
	for {
		d := c.deployment()
		f(d)
		if _, err := c.client.AppsV1().Deployments("default").Update(context.Background(), d, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

func TestMainJob(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	deployments := c.client.AppsV1().Deployments("default")
	must(c.client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.43.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80), Protocol: corev1.ProtocolTCP}}},
	}, metav1.CreateOptions{}))
	must(deployments.Create(ctx, web(3), metav1.CreateOptions{}))
	eventually(t, "three pods run", func() bool { return c.done() && c.images()["web:1"] == 3 })
	eventually(t, "the Endpoints have them", func() bool {
		e, err := c.client.CoreV1().Endpoints("default").Get(ctx, "web", metav1.GetOptions{})
		return err == nil && len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == 3
	})

	c.change(func(d *appsv1.Deployment) { d.Spec.Template = cachetest.Template("web", "2") })
	eventually(t, "the new image runs", func() bool { return c.done() && c.images()["web:2"] == 3 && len(c.images()) == 1 })
	if c.peak > 4 {
		t.Errorf("%d pods at once, with a surge of one over three", c.peak)
	}
	ten := int32(10)
	c.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &ten })
	eventually(t, "ten run", func() bool { return c.done() && c.images()["web:2"] == 10 })
	one := int32(1)
	c.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &one })
	eventually(t, "one runs", func() bool { return c.done() && c.images()["web:2"] == 1 })
	c.change(func(d *appsv1.Deployment) { d.Spec.Template = cachetest.Template("web", "1") })
	eventually(t, "it is rolled back", func() bool { return c.done() && c.images()["web:1"] == 1 && len(c.images()) == 1 })
	if r := c.deployment().Annotations["deployment.kubernetes.io/revision"]; r != "3" {
		t.Errorf("revision %q after a rollback from 2", r)
	}
	c.quiet(t)

	background := metav1.DeletePropagationBackground
	if err := deployments.Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool {
		return len(cachetest.All[corev1.Pod](c.api, "", "pods")) == 0 && len(cachetest.All[appsv1.ReplicaSet](c.api, "apps", "replicasets")) == 0
	})
}

// quiet checks that nobody writes once all is as wanted.
func (c *cluster) quiet(t interface {
	Fatalf(string, ...any)
	Errorf(string, ...any)
}) {
	last := c.writes.Load()
	eventually(t, "the writes end", func() bool {
		time.Sleep(400 * time.Millisecond) // longer than a back-off that is still under way
		now := c.writes.Load()
		same := now == last
		last = now
		return same
	})
	before := c.writes.Load()
	time.Sleep(300 * time.Millisecond)
	if n := c.writes.Load() - before; n != 0 {
		t.Errorf("%d writes though nothing changed", n)
	}
}

func TestHouseOfANamespace(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	must(c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "tenant"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
	}, metav1.CreateOptions{}))
	eventually(t, "it is furnished", func() bool {
		_, account := c.client.CoreV1().ServiceAccounts("tenant").Get(ctx, "default", metav1.GetOptions{})
		ca, err := c.client.CoreV1().ConfigMaps("tenant").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return account == nil && err == nil && ca.Data["ca.crt"] == "ca"
	})
	if err := c.client.CoreV1().ConfigMaps("tenant").Delete(ctx, "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the certificate is back", func() bool {
		_, err := c.client.CoreV1().ConfigMaps("tenant").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil
	})
}

func TestNodesGetSubnets(t *testing.T) {
	c := newCluster(t)
	for i := range 20 {
		must(c.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}}, metav1.CreateOptions{}))
	}
	eventually(t, "each has its own", func() bool {
		seen := map[string]bool{}
		for _, n := range cachetest.All[corev1.Node](c.api, "", "nodes") {
			seen[n.Spec.PodCIDR] = true
		}
		return len(seen) == 21 && !seen[""]
	})
}

// disturb does what a model's cluster must bear: a killed pod, pods that do not become ready, writes that fail, changes
// that the caches miss, and time.
func (c *cluster) disturb(rt *rapid.T, operation string) {
	switch operation {
	case "kill":
		for _, p := range cachetest.All[corev1.Pod](c.api, "", "pods") {
			now := int64(0)
			_ = c.client.CoreV1().Pods("default").Delete(context.Background(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			break
		}
	case "break":
		c.broken.Store(!c.broken.Load())
	case "fail":
		var n atomic.Int64
		every := rapid.Int64Range(2, 4).Draw(rt, "every")
		c.api.SetFail(func(string, schema.GroupResource, runtime.Object) error {
			if n.Add(1)%every == 0 {
				return fmt.Errorf("the store is busy")
			}
			return nil
		})
	case "forget":
		c.api.Source.Quietly(func() { time.Sleep(time.Duration(rapid.IntRange(0, 5).Draw(rt, "ms")) * time.Millisecond) })
	case "wait":
		time.Sleep(time.Duration(rapid.IntRange(0, 30).Draw(rt, "ms")) * time.Millisecond)
	default:
		rt.Fatalf("no operation %q", operation)
	}
}

// calm ends what disturb began.
func (c *cluster) calm() {
	c.api.SetFail(nil)
	c.broken.Store(false)
	for _, p := range cachetest.All[corev1.Pod](c.api, "", "pods") {
		c.advance(context.Background(), p.Namespace, p.Name)
	}
}

// Random operations on a Deployment, with writes that fail and changes that are
// missed: it ends as wanted, never has too many pods, and then is quiet.
func TestDeploymentModel(t *testing.T) {
	if testing.Short() {
		t.Skip("slow")
	}
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t)
		must(c.client.AppsV1().Deployments("default").Create(t.Context(), web(2), metav1.CreateOptions{}))
		most := int32(2)
		for range rapid.IntRange(1, 6).Draw(rt, "operations") {
			switch operation := rapid.SampledFrom([]string{"scale", "image", "kill", "break", "fail", "forget", "wait"}).Draw(rt, "operation"); operation {
			case "scale":
				n := rapid.Int32Range(0, 5).Draw(rt, "replicas")
				most = max(most, n)
				c.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			case "image":
				v := fmt.Sprint(rapid.IntRange(1, 3).Draw(rt, "version"))
				c.change(func(d *appsv1.Deployment) { d.Spec.Template = cachetest.Template("web", v) })
			default:
				c.disturb(rt, operation)
			}
		}
		c.calm()
		want := c.deployment()
		eventually(rt, "it is rolled out", func() bool {
			images := c.images()
			return c.done() && images[want.Spec.Template.Spec.Containers[0].Image] == int(*want.Spec.Replicas)
		})
		c.quiet(rt)
		if c.peak > int(most)+1 {
			rt.Errorf("%d pods at once, at most %d were wanted", c.peak, most+1)
		}
	})
}
