package clients

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	appsv1apply "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: ptr[int32](2), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}}}},
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

// TestTyped: the clientset's verbs, in protobuf.
func TestTyped(t *testing.T) {
	s := start(t)
	t.Run("verbs", func(t *testing.T) { typedVerbs(t, s) })
	t.Run("errors", func(t *testing.T) { typedErrors(t, s) })
	t.Run("pages", func(t *testing.T) { pages(t, s) })
	t.Run("watch-list", func(t *testing.T) { watchList(t, s) })
	t.Run("conflict", func(t *testing.T) { conflict(t, s) })
	t.Run("apply", func(t *testing.T) { apply(t, s) })
	t.Run("scale", func(t *testing.T) { typedScale(t, s) })
	t.Run("eviction", func(t *testing.T) { eviction(t, s) })
	t.Run("subresources", func(t *testing.T) { subresources(t, s) })
}

// typedVerbs: an object through its whole life, with a watch that sees each step.
func typedVerbs(t *testing.T, s *server) {
	ctx, maps := t.Context(), s.client(t).CoreV1().ConfigMaps(s.namespace(t, "verbs"))
	w := must(maps.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=life"}))(t)
	defer w.Stop()

	created := must(maps.Create(ctx, configMap("life", map[string]string{"a": "1"}), metav1.CreateOptions{}))(t)
	if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() || len(created.ManagedFields) != 1 {
		t.Errorf("a created object lacks what the server sets: %+v", created.ObjectMeta)
	}
	got := must(maps.Get(ctx, "life", metav1.GetOptions{}))(t)
	if got.ResourceVersion != created.ResourceVersion || got.Data["a"] != "1" {
		t.Errorf("get %+v after create %+v", got, created)
	}
	got.Data["a"] = "2"
	updated := must(maps.Update(ctx, got, metav1.UpdateOptions{}))(t)
	for kind, patch := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op":"add","path":"/data/json","value":"x"}]`,
		types.MergePatchType:          `{"data":{"merge":"x"}}`,
		types.StrategicMergePatchType: `{"data":{"strategic":"x"}}`,
	} {
		must(maps.Patch(ctx, "life", kind, []byte(patch), metav1.PatchOptions{}))(t)
	}
	if dry := must(maps.Patch(ctx, "life", types.MergePatchType, []byte(`{"data":{"dry":"x"}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}))(t); dry.Data["dry"] != "x" {
		t.Errorf("a dry run shows %v", dry.Data)
	}
	if got = must(maps.Get(ctx, "life", metav1.GetOptions{}))(t); len(got.Data) != 4 {
		t.Errorf("after three patches and a dry one: %v", got.Data)
	}
	stale := types.UID("another")
	if err := maps.Delete(ctx, "life", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &stale}}); !apierrors.IsConflict(err) {
		t.Errorf("deleting another's UID: %v", err)
	}
	if err := maps.Delete(ctx, "life", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &updated.UID}}); err != nil {
		t.Error(err)
	}
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Modified, watch.Modified, watch.Modified, watch.Deleted} {
		if e := next(t, w); e.Type != want {
			t.Errorf("the watch says %s, want %s", e.Type, want)
		}
	}
}

// typedErrors: what client code asks apierrors about.
func typedErrors(t *testing.T, s *server) {
	ctx, client := t.Context(), s.client(t)
	maps := client.CoreV1().ConfigMaps(s.namespace(t, "errors"))
	if _, err := maps.Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of none: %v", err)
	}
	must(maps.Create(ctx, configMap("one", nil), metav1.CreateOptions{}))(t)
	if _, err := maps.Create(ctx, configMap("one", nil), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create twice: %v", err)
	}
	_, err := maps.Create(ctx, configMap("Not A Name", nil), metav1.CreateOptions{})
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 1 || status.Status().Details.Causes[0].Field != "metadata.name" {
		t.Errorf("a bad name: %v", err)
	}
	if _, err := client.CoreV1().ConfigMaps("nowhere").Create(ctx, configMap("x", nil), metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("create in no namespace: %v", err)
	}
	// Asked once: client-go would do as it is told, and try again each second.
	err = client.CoreV1().RESTClient().Get().Namespace("errors").Resource("configmaps").Param("resourceVersion", "1152921504606846976").MaxRetries(0).Do(ctx).Error()
	if !apierrors.IsTimeout(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge) {
		t.Errorf("a list of the future: %v", err)
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: "1"})
	if err == nil {
		defer w.Stop()
		err = apierrors.FromObject(next(t, w).Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch from long ago: %v", err)
	}
}

// pages: a list in pieces is a snapshot: what is made and deleted meanwhile is not in it.
func pages(t *testing.T, s *server) {
	ctx, maps := t.Context(), s.client(t).CoreV1().ConfigMaps(s.namespace(t, "pages"))
	for i := range 25 {
		must(maps.Create(ctx, configMap(fmt.Sprintf("m%02d", i), map[string]string{"n": strconv.Itoa(i)}), metav1.CreateOptions{}))(t)
	}
	var names []string
	var remaining []int64
	options := metav1.ListOptions{Limit: 10, LabelSelector: ""}
	for {
		page := must(maps.List(ctx, options))(t)
		for _, m := range page.Items {
			if m.Name != "kube-root-ca.crt" {
				names = append(names, m.Name)
			}
		}
		if page.Continue == "" {
			break
		}
		if page.RemainingItemCount == nil {
			t.Fatal("a page does not say how many remain")
		}
		remaining = append(remaining, *page.RemainingItemCount)
		if options.Continue == "" {
			must(maps.Create(ctx, configMap("m99", nil), metav1.CreateOptions{}))(t)
			if err := maps.Delete(ctx, "m20", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		options.Continue = page.Continue
	}
	if len(names) != 25 || names[0] != "m00" || names[24] != "m24" {
		t.Errorf("the pages hold %v", names)
	}
	if fmt.Sprint(remaining) != "[16 6]" { // with the CA's own
		t.Errorf("remaining %v", remaining)
	}
}

// watchList: the initial events of a watch, and the bookmark that ends them.
func watchList(t *testing.T, s *server) {
	ctx, maps := t.Context(), s.client(t).CoreV1().ConfigMaps(s.namespace(t, "watch-list"))
	for i := range 5 {
		m := configMap(fmt.Sprintf("m%d", i), nil)
		m.Labels = map[string]string{"odd": strconv.FormatBool(i%2 == 1)}
		must(maps.Create(ctx, m, metav1.CreateOptions{}))(t)
	}
	w := must(maps.Watch(ctx, metav1.ListOptions{SendInitialEvents: ptr(true), AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, LabelSelector: "odd=false"}))(t)
	defer w.Stop()
	for i := range 3 {
		if e := next(t, w); e.Type != watch.Added || e.Object.(*corev1.ConfigMap).Name != fmt.Sprintf("m%d", 2*i) {
			t.Fatalf("initial event %d: %s %+v", i, e.Type, e.Object)
		}
	}
	if e := next(t, w); e.Type != watch.Bookmark || e.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Fatalf("after the initial events: %s %+v", e.Type, e.Object)
	}
	// An object that leaves the selector is told as deleted.
	must(maps.Patch(ctx, "m0", types.MergePatchType, []byte(`{"metadata":{"labels":{"odd":"true"}}}`), metav1.PatchOptions{}))(t)
	if e := next(t, w); e.Type != watch.Deleted {
		t.Errorf("leaving the selector: %s", e.Type)
	}
}

// conflict: eight writers of one object lose nothing.
func conflict(t *testing.T, s *server) {
	ctx, maps := t.Context(), s.client(t).CoreV1().ConfigMaps(s.namespace(t, "conflict"))
	must(maps.Create(ctx, configMap("counter", map[string]string{"n": "0"}), metav1.CreateOptions{}))(t)
	backoff := wait.Backoff{Steps: 100, Duration: 2 * time.Millisecond, Factor: 1, Jitter: 1}
	var writers sync.WaitGroup
	var conflicts sync.Map
	for w := range 8 {
		writers.Go(func() {
			for i := range 5 {
				err := retry.RetryOnConflict(backoff, func() error {
					m, err := maps.Get(ctx, "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					n, _ := strconv.Atoi(m.Data["n"])
					m.Data["n"] = strconv.Itoa(n + 1)
					_, err = maps.Update(ctx, m, metav1.UpdateOptions{})
					if apierrors.IsConflict(err) {
						conflicts.Store([2]int{w, i}, true)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if m := must(maps.Get(ctx, "counter", metav1.GetOptions{}))(t); m.Data["n"] != "40" {
		t.Errorf("40 increments made %s", m.Data["n"])
	}
	met := 0
	conflicts.Range(func(any, any) bool { met++; return true })
	t.Logf("%d of 40 met a conflict", met)
}

// apply: two appliers with their fields, a conflict, force, and a field that nobody applies any more.
func apply(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "apply")
	deployments := s.client(t).AppsV1().Deployments(ns)
	labels := map[string]string{"app": "web"}
	config := func(replicas int32, image string, env ...string) *appsv1apply.DeploymentApplyConfiguration {
		main := corev1apply.Container().WithName("main").WithImage(image)
		for _, name := range env {
			main.WithEnv(corev1apply.EnvVar().WithName(name).WithValue("x"))
		}
		return appsv1apply.Deployment("web", ns).WithSpec(appsv1apply.DeploymentSpec().WithReplicas(replicas).
			WithSelector(metav1apply.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(corev1apply.PodTemplateSpec().WithLabels(labels).WithSpec(corev1apply.PodSpec().WithContainers(main))))
	}
	must(deployments.Apply(ctx, config(1, "nginx:1", "A", "B"), metav1.ApplyOptions{FieldManager: "one"}))(t)
	scale := appsv1apply.Deployment("web", ns).WithSpec(appsv1apply.DeploymentSpec().WithReplicas(3))
	if _, err := deployments.Apply(ctx, scale, metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) || !apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		t.Errorf("another's field: %v", err)
	}
	must(deployments.Apply(ctx, scale, metav1.ApplyOptions{FieldManager: "two", Force: true}))(t)
	// one lets go of the replicas and of B.
	one := config(0, "nginx:2", "A")
	one.Spec.Replicas = nil
	d := must(deployments.Apply(ctx, one, metav1.ApplyOptions{FieldManager: "one"}))(t)
	if c := d.Spec.Template.Spec.Containers[0]; *d.Spec.Replicas != 3 || c.Image != "nginx:2" || len(c.Env) != 1 || c.Env[0].Name != "A" {
		t.Errorf("after both: %d replicas, %+v", *d.Spec.Replicas, c)
	}
	extracted := must(appsv1apply.ExtractDeployment(d, "two"))(t)
	if extracted.Spec == nil || *extracted.Spec.Replicas != 3 || extracted.Spec.Template != nil {
		t.Errorf("extracted of two: %+v", extracted.Spec)
	}
	status := appsv1apply.Deployment("web", ns).WithStatus(appsv1apply.DeploymentStatus().WithConditions(
		appsv1apply.DeploymentCondition().WithType("Tested").WithStatus(corev1.ConditionTrue).WithReason("Applied").WithMessage("by a test")))
	d = must(deployments.ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: "three", Force: true}))(t)
	found := false
	for _, c := range d.Status.Conditions {
		found = found || c.Type == "Tested"
	}
	if !found || *d.Spec.Replicas != 3 {
		t.Errorf("the applied status: %+v", d.Status)
	}
}

func typedScale(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "scale")
	client := s.client(t)
	must(client.AppsV1().Deployments(ns).Create(ctx, deployment("web"), metav1.CreateOptions{}))(t)
	scale := must(client.AppsV1().Deployments(ns).GetScale(ctx, "web", metav1.GetOptions{}))(t)
	if scale.Spec.Replicas != 2 || scale.Status.Selector != "app=web" {
		t.Errorf("scale %+v", scale)
	}
	scale = must(client.AppsV1().Deployments(ns).UpdateScale(ctx, "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}, metav1.UpdateOptions{}))(t)
	eventually(t, 20*time.Second, "four pods", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: scale.Status.Selector})
		if err == nil && len(pods.Items) != 4 {
			err = fmt.Errorf("%d pods", len(pods.Items))
		}
		return err
	})
}

// eviction: a budget refuses with 429 and its cause; without one the pod goes.
func eviction(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "eviction")
	client := s.client(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{"app": "one"}}, Spec: deployment("one").Spec.Template.Spec}
	must(client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}))(t)
	// A budget guards what runs: a pod that is Running and Ready, and no spare one.
	must(client.CoreV1().Pods(ns).Patch(ctx, "one", types.MergePatchType, []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status"))(t)
	must(client.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "all"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}, metav1.CreateOptions{}))(t)
	evict := func() error {
		return client.PolicyV1().Evictions(ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: ns}})
	}
	eventually(t, 10*time.Second, "the budget counts", func(ctx context.Context) error {
		b, err := client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "all", metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 1) {
			err = fmt.Errorf("%+v", b.Status)
		}
		return err
	})
	if err := evict(); !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		t.Errorf("evicting the last: %v", err)
	}
	if err := client.PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "all", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict(); err != nil {
		t.Errorf("evicting without a budget: %v", err)
	}
	if _, err := client.CoreV1().Pods(ns).Get(ctx, "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod of no node after its eviction: %v", err)
	}
}

// subresources: logs of what does not run, a token of an account in use, binding, ephemeral containers.
func subresources(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "subresources")
	client := s.client(t)
	pods := client.CoreV1().Pods(ns)
	must(pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: deployment("one").Spec.Template.Spec}, metav1.CreateOptions{}))(t)
	if said, err := pods.GetLogs("one", &corev1.PodLogOptions{}).DoRaw(ctx); err != nil || len(said) > 0 { // upstream's answer
		t.Errorf("logs of a pod without a node: %q %v", said, err)
	}
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "none"}}); !apierrors.IsNotFound(err) {
		t.Errorf("eviction of none: %v", err)
	}
	token := must(client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t)
	config := rest.AnonymousClientConfig(s.config(t))
	config.BearerToken = token.Status.Token
	account := must(kubernetes.NewForConfig(config))(t)
	who := must(account.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))(t)
	if who.Status.UserInfo.Username != "system:serviceaccount:"+ns+":default" {
		t.Errorf("the token is of %q", who.Status.UserInfo.Username)
	}
	if _, err := account.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an account without rights lists pods: %v", err)
	}
	if err := pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Target: corev1.ObjectReference{Kind: "Node", Name: "nowhere"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	pod := must(pods.Get(ctx, "one", metav1.GetOptions{}))(t)
	if pod.Spec.NodeName != "nowhere" {
		t.Errorf("bound to %q", pod.Spec.NodeName)
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox"}}}
	if pod = must(pods.UpdateEphemeralContainers(ctx, "one", pod, metav1.UpdateOptions{}))(t); len(pod.Spec.EphemeralContainers) != 1 {
		t.Errorf("ephemeral containers: %+v", pod.Spec.EphemeralContainers)
	}
}

// next is the next event of a watch that is no progress bookmark.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatal("the watch ended")
			}
			if m, ok := e.Object.(metav1.Object); e.Type == watch.Bookmark && ok && m.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "" {
				continue
			}
			return e
		case <-time.After(10 * time.Second):
			t.Fatal("nothing from the watch in 10 seconds")
		}
	}
}
