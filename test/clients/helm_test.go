package clients

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	release "helm.sh/helm/v4/pkg/release/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// helm is the library, with one namespace and a chart of testdata.
type helm struct {
	t      *testing.T
	config *action.Configuration
	ns     string
	client kubernetes.Interface
	rakes  dynamic.ResourceInterface
	chart  *chart.Chart
}

func newHelm(t *testing.T, s *server, ns string) *helm {
	t.Helper()
	s.namespace(t, ns)
	settings := cli.New()
	settings.KubeConfig = filepath.Join(s.dir, "data", "kubeconfig")
	settings.SetNamespace(ns)
	config := action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler))
	if err := config.Init(settings.RESTClientGetter(), ns, "secret"); err != nil {
		t.Fatal(err)
	}
	rakes := schema.GroupVersionResource{Group: "shed.bramble.dev", Version: "v1", Resource: "rakes"}
	return &helm{t: t, config: config, ns: ns, client: s.client(t), chart: must(loader.LoadDir("testdata/chart"))(t),
		rakes: must(dynamic.NewForConfig(s.config(t)))(t).Resource(rakes).Namespace(ns)}
}

type values = map[string]any

func (h *helm) install(v values, set ...func(*action.Install)) error {
	i := action.NewInstall(h.config)
	i.ReleaseName, i.Namespace, i.Timeout, i.WaitStrategy = "shed", h.ns, 20*time.Second, kube.HookOnlyStrategy
	for _, f := range set {
		f(i)
	}
	_, err := i.RunWithContext(h.t.Context(), h.chart, v)
	return err
}

func (h *helm) upgrade(v values, set ...func(*action.Upgrade)) error {
	u := action.NewUpgrade(h.config)
	u.Namespace, u.Timeout, u.WaitStrategy = h.ns, 20*time.Second, kube.HookOnlyStrategy
	for _, f := range set {
		f(u)
	}
	_, err := u.RunWithContext(h.t.Context(), "shed", h.chart, v)
	return err
}

func (h *helm) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// history is each revision with its state, the oldest first.
func (h *helm) history() string {
	h.t.Helper()
	var out []string
	for _, r := range must(action.NewHistory(h.config).Run("shed"))(h.t) {
		rel := r.(*release.Release)
		out = append(out, fmt.Sprintf("%d %s", rel.Version, rel.Info.Status))
	}
	return strings.Join(out, ", ")
}

func (h *helm) configMap(name string) (*corev1.ConfigMap, bool) {
	h.t.Helper()
	m, err := h.client.CoreV1().ConfigMaps(h.ns).Get(h.t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		h.t.Fatal(err)
	}
	return m, err == nil
}

func (h *helm) deployment() *appsv1.Deployment {
	h.t.Helper()
	return must(h.client.AppsV1().Deployments(h.ns).Get(h.t.Context(), "shed", metav1.GetOptions{}))(h.t)
}

// is compares what the release has made with a colour and an image, in each of its objects.
func (h *helm) is(color, image string, replicas int32) {
	h.t.Helper()
	m, _ := h.configMap("shed")
	d := h.deployment()
	rake := must(h.rakes.Get(h.t.Context(), "shed", metav1.GetOptions{}))(h.t)
	if m.Data["color"] != color || d.Labels["color"] != color || at(h.t, rake, "spec", "color") != color ||
		d.Spec.Template.Spec.Containers[0].Image != image || *d.Spec.Replicas != replicas {
		h.t.Errorf("want %s, %s, %d; it is %v, %v, %v, %s, %d", color, image, replicas, m.Data, d.Labels, rake.Object["spec"], d.Spec.Template.Spec.Containers[0].Image, *d.Spec.Replicas)
	}
}

// TestHelm: a chart through its life. Helm 4 applies on the server's side; as Helm 3 did it, by three-way patches, too.
func TestHelm(t *testing.T) {
	s := start(t)
	t.Run("server-side", func(t *testing.T) { chartLife(newHelm(t, s, "server-side"), true) })
	t.Run("client-side", func(t *testing.T) { chartLife(newHelm(t, s, "client-side"), false) })
	t.Run("job", func(t *testing.T) { hookJob(newHelm(t, s, "job")) })
	t.Run("rollback on failure", func(t *testing.T) { rollbackOnFailure(newHelm(t, s, "atomic")) })
}

func chartLife(h *helm, serverSide bool) {
	t, ctx := h.t, h.t.Context()
	side := func(i *action.Install) { i.ServerSideApply = serverSide }
	must(h.client.CoreV1().ConfigMaps(h.ns).Create(ctx, configMap("before", map[string]string{"word": "hello"}), metav1.CreateOptions{}))(t)

	h.ok(h.install(values{}, side))
	h.is("green", "nginx:1", 1)
	if m, _ := h.configMap("shed"); m.Data["found"] != "hello" || m.Data["apps"] != "yes" {
		t.Errorf("the lookup and the capabilities: %v", m.Data)
	}
	if m, there := h.configMap("shed-pre"); !there || m.Data["revision"] != "1" {
		t.Errorf("the hook that stays: %v", m.Data)
	}
	if _, there := h.configMap("shed-post"); there {
		t.Error("the hook that goes when it has succeeded is there")
	}
	if err := h.install(values{}, side); err == nil || !strings.Contains(err.Error(), "cannot reuse a name") {
		t.Errorf("a second release of that name: %v", err)
	}

	// A dry run asks the server, and changes nothing.
	h.ok(h.upgrade(values{"color": "red"}, func(u *action.Upgrade) { u.DryRunStrategy = action.DryRunServer }))
	h.is("green", "nginx:1", 1)

	// A foreign change stays where the chart says nothing.
	must(h.client.AppsV1().Deployments(h.ns).Patch(ctx, "shed", types.StrategicMergePatchType,
		[]byte(`{"metadata":{"annotations":{"foreign":"yes"}},"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"FOREIGN","value":"yes"}]}]}}}}`),
		metav1.PatchOptions{FieldManager: "somebody"}))(t)
	h.ok(h.upgrade(values{"color": "blue", "image": "nginx:2", "replicas": 2, "extra": false}))
	h.is("blue", "nginx:2", 2)
	d := h.deployment()
	if env := d.Spec.Template.Spec.Containers[0].Env; d.Annotations["foreign"] != "yes" || len(env) != 1 || env[0].Name != "FOREIGN" {
		t.Errorf("the foreign change after an upgrade: %v %v", d.Annotations, env)
	}
	if _, there := h.configMap("shed-extra"); there {
		t.Error("what the chart left out is there")
	}
	if m, _ := h.configMap("shed-pre"); m.Data["revision"] != "2" {
		t.Errorf("the hook of the upgrade: %v", m.Data)
	}

	// One of a field that the chart has: to apply on the server's side meets a conflict, a three-way patch takes it back.
	scale := must(h.client.AppsV1().Deployments(h.ns).Patch(ctx, "shed", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{FieldManager: "somebody"}))(t)
	err := h.upgrade(values{"color": "blue", "image": "nginx:2", "replicas": 3})
	want := "1 superseded, 2 superseded, 3 deployed"
	if serverSide {
		want = "1 superseded, 2 deployed, 3 failed"
		if err == nil || !strings.Contains(err.Error(), `conflict with "somebody"`) || *h.deployment().Spec.Replicas != *scale.Spec.Replicas {
			t.Errorf("another's replicas: %v", err)
		}
	} else {
		h.ok(err)
		h.is("blue", "nginx:2", 3)
	}
	if got := h.history(); got != want {
		t.Errorf("history: %s, want %s", got, want)
	}

	back := action.NewRollback(h.config)
	back.Version, back.Timeout, back.WaitStrategy, back.ForceConflicts = 1, 20*time.Second, kube.HookOnlyStrategy, serverSide
	h.ok(back.Run("shed"))
	h.is("green", "nginx:1", 1)
	if _, there := h.configMap("shed-extra"); !there {
		t.Error("a rollback does not bring back what was there")
	}
	if got := h.history(); !strings.HasSuffix(got, "4 deployed") {
		t.Errorf("history after the rollback: %s", got)
	}
	releases := must(action.NewList(h.config).Run())(t)
	if len(releases) != 1 {
		t.Errorf("%d releases", len(releases))
	}

	gone := action.NewUninstall(h.config)
	gone.Timeout, gone.WaitStrategy = 20*time.Second, kube.StatusWatcherStrategy // which waits for deletion by watches
	must(gone.Run("shed"))(t)
	for name, want := range map[string]bool{"shed": false, "shed-extra": false, "shed-kept": true, "shed-pre": true, "before": true} {
		if _, there := h.configMap(name); there != want {
			t.Errorf("after uninstall, %s is there: %v", name, there)
		}
	}
	if _, err := h.rakes.Get(ctx, "shed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the custom resource: %v", err)
	}
	if _, err := h.rakes.List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("the definition does not outlive its release: %v", err)
	}
	if secrets := must(h.client.CoreV1().Secrets(h.ns).List(ctx, metav1.ListOptions{LabelSelector: "owner=helm"}))(t); len(secrets.Items) != 0 {
		t.Errorf("%d records are left", len(secrets.Items))
	}
}

// hookJob: helm waits, by a watch, for a Job that runs before; the test is its pod.
func hookJob(h *helm) {
	t, ctx := h.t, h.t.Context()
	installed := make(chan error, 1)
	go func() { installed <- h.install(values{"hook": "prepare"}) }()
	jobs := h.client.BatchV1().Jobs(h.ns)
	eventually(t, 15*time.Second, "the hook's Job", func(ctx context.Context) error {
		_, err := jobs.Get(ctx, "prepare", metav1.GetOptions{})
		return err
	})
	select {
	case err := <-installed:
		t.Fatalf("helm did not wait for the Job: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	if _, there := h.configMap("shed"); there {
		t.Error("what comes after the hook is there before it has ended")
	}
	finish(t, h, corev1.PodSucceeded)
	h.ok(<-installed)
	if _, err := jobs.Get(ctx, "prepare", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Job after its success: %v", err)
	}

	go func() { installed <- h.upgrade(values{"hook": "prepare", "color": "blue"}) }()
	finish(t, h, corev1.PodFailed)
	if err := <-installed; err == nil || !strings.Contains(err.Error(), "pre-upgrade hooks failed") {
		t.Errorf("an upgrade whose hook fails: %v", err)
	}
	h.is("green", "nginx:1", 1)
	if got := h.history(); got != "1 deployed, 2 failed" {
		t.Errorf("history: %s", got)
	}
}

// finish ends the one pod of the Job, as its node would, and lets the controller of Jobs see it.
func finish(t *testing.T, h *helm, phase corev1.PodPhase) {
	t.Helper()
	pods := h.client.CoreV1().Pods(h.ns)
	eventually(t, 15*time.Second, "the Job's pod ends", func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=prepare"})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.Status.Phase == corev1.PodPending {
				_, err := pods.Patch(ctx, p.Name, types.MergePatchType, fmt.Appendf(nil, `{"status":{"phase":%q}}`, phase), metav1.PatchOptions{}, "status")
				return err
			}
		}
		return fmt.Errorf("%d pods, none Pending", len(list.Items))
	})
}

// rollbackOnFailure (--atomic, of old): what the API refuses leaves nothing at the first time, and the version before at the next.
func rollbackOnFailure(h *helm) {
	t := h.t
	atomic := func(i *action.Install) { i.RollbackOnFailure = true }
	if err := h.install(values{"fails": 70000}, atomic); err == nil || !strings.Contains(err.Error(), "spec.ports[0].port") {
		t.Errorf("an install with a port that cannot be: %v", err)
	}
	if m, there := h.configMap("shed"); there {
		t.Errorf("a failed install has left %v", m)
	}
	// Both wait for what they have made. A Deployment of no pods is ready without nodes.
	h.ok(h.install(values{"replicas": 0}, atomic))
	err := h.upgrade(values{"replicas": 0, "color": "red", "fails": 70000}, func(u *action.Upgrade) { u.RollbackOnFailure, u.CleanupOnFail = true, true })
	if err == nil || !strings.Contains(err.Error(), "spec.ports[0].port") {
		t.Errorf("an upgrade with a port that cannot be: %v", err)
	}
	h.is("green", "nginx:1", 0)
	if got := h.history(); got != "1 superseded, 2 failed, 3 deployed" {
		t.Errorf("history: %s", got)
	}
	// And one that the schema of the chart's own definition refuses.
	if err := h.upgrade(values{"replicas": 0, "teeth": 0}); err == nil || !strings.Contains(err.Error(), "spec.teeth") {
		t.Errorf("a rake without teeth: %v", err)
	}
}
