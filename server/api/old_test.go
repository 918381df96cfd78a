package api

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

func gvr(s string) schema.GroupVersionResource {
	p := strings.Split(s, "/")
	return schema.GroupVersionResource{Group: p[0], Version: p[1], Resource: p[2]}
}

func field(o *unstructured.Unstructured, path string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(o.Object, strings.Split(path, ".")...)
	return v
}

// The manifests of a course of 2018, as they are in it: created in their version, read back in both.
func TestOldManifests(t *testing.T) {
	tests := []struct {
		file, old, now, name string
		defaults             map[string]any // in the old version
		present              map[string]any // in the present version
	}{
		{"01-deployment.yaml", "apps/v1beta2/deployments", "apps/v1/deployments", "nginx-deployment",
			map[string]any{"apiVersion": "apps/v1beta2", "spec.revisionHistoryLimit": int64(10), "spec.progressDeadlineSeconds": int64(600)},
			map[string]any{"apiVersion": "apps/v1", "spec.selector.matchLabels.app": "nginx"}},
		{"02-statefulset.yaml", "apps/v1beta1/statefulsets", "apps/v1/statefulsets", "web",
			map[string]any{"apiVersion": "apps/v1beta1", "metadata.labels.app": "nginx", "spec.updateStrategy.type": "OnDelete"},
			map[string]any{"apiVersion": "apps/v1", "spec.selector.matchLabels.app": "nginx", "spec.updateStrategy.type": "OnDelete", "spec.template.spec.volumeClaimTemplates": nil}},
		{"03-daemonset.yaml", "extensions/v1beta1/daemonsets", "apps/v1/daemonsets", "fluentd-elasticsearch",
			map[string]any{"apiVersion": "extensions/v1beta1", "spec.updateStrategy.type": "OnDelete", "spec.templateGeneration": int64(1)},
			map[string]any{"apiVersion": "apps/v1", "spec.selector.matchLabels.name": "fluentd-elasticsearch", "spec.updateStrategy.type": "OnDelete"}},
		{"05-cronjob.yaml", "batch/v2alpha1/cronjobs", "batch/v1/cronjobs", "hello",
			map[string]any{"apiVersion": "batch/v2alpha1", "spec.concurrencyPolicy": "Allow", "spec.suspend": false},
			map[string]any{"apiVersion": "batch/v1", "spec.schedule": "*/1 * * * *"}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			c, ns := shared(t)
			data := must(os.ReadFile(filepath.Join("..", "..", "configs", "manifests", tt.file)))(t)
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(data, &o.Object); err != nil {
				t.Fatal(err)
			}
			o.SetNamespace(ns)
			old, now := c.dynamic(t).Resource(gvr(tt.old)).Namespace(ns), c.dynamic(t).Resource(gvr(tt.now)).Namespace(ns)
			w := must(old.Watch(t.Context(), metav1.ListOptions{}))(t)
			defer w.Stop()
			// Strict, as today's kubectl sends it: unknown fields of manifests of that time are warned about and dropped.
			made := must(old.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}))(t)
			for path, want := range tt.defaults {
				if got := field(made, path); got != want {
					t.Errorf("created: %s is %v, want %v", path, got, want)
				}
			}
			read := must(now.Get(t.Context(), tt.name, metav1.GetOptions{}))(t)
			for path, want := range tt.present {
				if got := field(read, path); got != want {
					t.Errorf("read as %s: %s is %v, want %v", tt.now, path, got, want)
				}
			}
			if claims, _ := field(read, "spec.volumeClaimTemplates").([]any); strings.Contains(tt.now, "statefulsets") && len(claims) != 1 {
				t.Errorf("claims %v: they lie one level too deep in this manifest", claims)
			}
			if e := next(t, w); e.Object.(*unstructured.Unstructured).GetAPIVersion() != made.GetAPIVersion() {
				t.Errorf("watched %v", e.Object)
			}

			// The other direction: written in the present version, read in the old one.
			label := []byte(`{"metadata":{"labels":{"written":"now"}}}`)
			must(now.Patch(t.Context(), tt.name, types.MergePatchType, label, metav1.PatchOptions{}))(t)
			back := must(old.Get(t.Context(), tt.name, metav1.GetOptions{}))(t)
			if back.GetAPIVersion() != made.GetAPIVersion() || back.GetLabels()["written"] != "now" {
				t.Errorf("read back %v %v", back.GetAPIVersion(), back.GetLabels())
			}
			for kind, patch := range map[types.PatchType]string{
				types.MergePatchType:          `{"metadata":{"labels":{"merge":"y"}}}`,
				types.StrategicMergePatchType: `{"metadata":{"labels":{"strategic":"y"}}}`,
				types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels/json","value":"y"}]`,
			} {
				if _, err := old.Patch(t.Context(), tt.name, kind, []byte(patch), metav1.PatchOptions{}); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
			applied := &unstructured.Unstructured{Object: map[string]any{"apiVersion": made.GetAPIVersion(), "kind": made.GetKind(), "metadata": map[string]any{"name": tt.name, "annotations": map[string]any{"by": "apply"}}}}
			a := must(old.Apply(t.Context(), tt.name, applied, metav1.ApplyOptions{FieldManager: "test"}))(t)
			if a.GetAnnotations()["by"] != "apply" || a.GetLabels()["json"] != "y" {
				t.Errorf("applied %v %v", a.GetAnnotations(), a.GetLabels())
			}
			list := must(old.List(t.Context(), metav1.ListOptions{}))(t)
			if len(list.Items) != 1 || list.GetAPIVersion() != made.GetAPIVersion() {
				t.Errorf("list %v with %d", list.GetAPIVersion(), len(list.Items))
			}
			table := ask(t, c.config, "GET", "/apis/"+strings.Replace(made.GetAPIVersion(), "//", "/", 1)+"/namespaces/"+ns+"/"+gvr(tt.old).Resource, "", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io")
			if table.code != 200 || !strings.Contains(table.body, `"kind":"Table"`) {
				t.Errorf("table: %d %.200s", table.code, table.body)
			}
			if err := old.Delete(t.Context(), tt.name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := now.Get(t.Context(), tt.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("after deletion in the old version: %v", err)
			}
		})
	}
}

// Versions that upstream stopped to serve, and that blogs and charts are still full of: made in theirs, read in both, made again from what was read.
func TestVersionsOfBlogs(t *testing.T) {
	c, ns := shared(t)
	tests := []struct {
		old, now, kind, more string
		defaults             map[string]any // in the old version
		present              map[string]any // in the present version
	}{
		{"networking.k8s.io/v1beta1/ingresses", "networking.k8s.io/v1/ingresses", "Ingress",
			`"spec":{"rules":[{"host":"a.example","http":{"paths":[{"backend":{"serviceName":"web","servicePort":80}}]}}],"backend":{"serviceName":"rest","servicePort":"http"}}`,
			map[string]any{"spec.backend.servicePort": "http"},
			map[string]any{"spec.defaultBackend.service.name": "rest", "spec.defaultBackend.service.port.name": "http"}},
		{"networking.k8s.io/v1beta1/ingressclasses", "networking.k8s.io/v1/ingressclasses", "IngressClass",
			`"spec":{"controller":"example.com/ingress","parameters":{"kind":"Parameters","apiGroup":"example.com","name":"p"}}`,
			map[string]any{"spec.parameters.scope": "Cluster"}, map[string]any{"spec.controller": "example.com/ingress"}},
		{"policy/v1beta1/poddisruptionbudgets", "policy/v1/poddisruptionbudgets", "PodDisruptionBudget",
			`"spec":{"minAvailable":2,"selector":{"matchLabels":{"app":"web"}}}`,
			map[string]any{"spec.minAvailable": int64(2)}, map[string]any{"spec.selector.matchLabels.app": "web"}},
		{"rbac.authorization.k8s.io/v1beta1/clusterroles", "rbac.authorization.k8s.io/v1/clusterroles", "ClusterRole",
			`"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]`, nil, nil},
		{"rbac.authorization.k8s.io/v1beta1/rolebindings", "rbac.authorization.k8s.io/v1/rolebindings", "RoleBinding",
			`"subjects":[{"kind":"User","name":"ann"}],"roleRef":{"kind":"ClusterRole","name":"view"}`,
			map[string]any{"roleRef.apiGroup": "rbac.authorization.k8s.io"}, map[string]any{"roleRef.name": "view"}},
		{"storage.k8s.io/v1beta1/storageclasses", "storage.k8s.io/v1/storageclasses", "StorageClass",
			`"provisioner":"example.com/disks"`, map[string]any{"reclaimPolicy": "Delete"}, map[string]any{"volumeBindingMode": "Immediate"}},
		{"scheduling.k8s.io/v1beta1/priorityclasses", "scheduling.k8s.io/v1/priorityclasses", "PriorityClass",
			`"value":1000`, map[string]any{"preemptionPolicy": "PreemptLowerPriority"}, map[string]any{"value": int64(1000)}},
		{"node.k8s.io/v1beta1/runtimeclasses", "node.k8s.io/v1/runtimeclasses", "RuntimeClass",
			`"handler":"runsc"`, nil, map[string]any{"handler": "runsc"}},
		{"discovery.k8s.io/v1beta1/endpointslices", "discovery.k8s.io/v1/endpointslices", "EndpointSlice",
			`"addressType":"IPv4","endpoints":[{"addresses":["10.9.8.7"],"topology":{"kubernetes.io/hostname":"pi","topology.kubernetes.io/zone":"hut"}}]`,
			map[string]any{"addressType": "IPv4"}, map[string]any{"addressType": "IPv4"}},
		{"autoscaling/v2beta2/horizontalpodautoscalers", "autoscaling/v2/horizontalpodautoscalers", "HorizontalPodAutoscaler",
			`"spec":{"maxReplicas":3,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"web"},"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":60}}}]}`,
			map[string]any{"spec.minReplicas": int64(1)}, map[string]any{"spec.maxReplicas": int64(3)}},
	}
	for _, tt := range tests {
		t.Run(tt.old, func(t *testing.T) {
			var old, now dynamic.ResourceInterface = c.dynamic(t).Resource(gvr(tt.old)), c.dynamic(t).Resource(gvr(tt.now))
			if slices.Contains([]string{"Ingress", "PodDisruptionBudget", "RoleBinding", "EndpointSlice", "HorizontalPodAutoscaler"}, tt.kind) {
				old, now = c.dynamic(t).Resource(gvr(tt.old)).Namespace(ns), c.dynamic(t).Resource(gvr(tt.now)).Namespace(ns)
			}
			name := "blog-" + ns
			gv := gvr(tt.old).GroupVersion().String()
			o := &unstructured.Unstructured{}
			if err := o.UnmarshalJSON([]byte(`{"apiVersion":"` + gv + `","kind":"` + tt.kind + `","metadata":{"name":"` + name + `"},` + tt.more + `}`)); err != nil {
				t.Fatal(err)
			}
			made := must(old.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}))(t)
			for path, want := range tt.defaults {
				if got := field(made, path); got != want {
					t.Errorf("created: %s is %v, want %v", path, got, want)
				}
			}
			read := must(now.Get(t.Context(), name, metav1.GetOptions{}))(t)
			for path, want := range tt.present {
				if got := field(read, path); got != want {
					t.Errorf("read as %s: %s is %v, want %v", tt.now, path, got, want)
				}
			}
			applied := &unstructured.Unstructured{Object: map[string]any{"apiVersion": gv, "kind": tt.kind, "metadata": map[string]any{"name": name, "annotations": map[string]any{"by": "apply"}}}}
			if tt.kind == "RoleBinding" {
				applied.Object["roleRef"] = made.Object["roleRef"] // required, and fixed
			}
			a := must(old.Apply(t.Context(), name, applied, metav1.ApplyOptions{FieldManager: "test", Force: true}))(t)
			if a.GetAPIVersion() != gv || a.GetAnnotations()["by"] != "apply" {
				t.Errorf("applied %v %v", a.GetAPIVersion(), a.GetAnnotations())
			}
			if err := now.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			again := a.DeepCopy()
			again.SetResourceVersion("")
			again.SetManagedFields(nil)
			if _, err := old.Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
				t.Errorf("what was read cannot be made again: %v", err)
			}
			if err := old.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// In policy/v1beta1 a budget that selects nothing is for no pod; in policy/v1 it is for all.
func TestOldBudgetOfNothing(t *testing.T) {
	c, ns := shared(t)
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": map[string]any{"name": "none"}, "spec": map[string]any{"minAvailable": int64(1), "selector": map[string]any{}}}}
	must(c.dynamic(t).Resource(gvr("policy/v1beta1/poddisruptionbudgets")).Namespace(ns).Create(t.Context(), o, metav1.CreateOptions{}))(t)
	read := must(c.client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "none", metav1.GetOptions{}))(t)
	s := must(metav1.LabelSelectorAsSelector(read.Spec.Selector))(t)
	if s.Matches(labels.Set{"app": "web"}) || s.Empty() {
		t.Errorf("it selects by %q", s)
	}
}

// Whatever is served in an old group is what it is in the present one: of the default class, and counted.
func TestOldGroupIsAdmitted(t *testing.T) {
	c, ns := shared(t)
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/ingresses.networking.k8s.io": resource.MustParse("1")}}}
	q = must(c.client.CoreV1().ResourceQuotas(ns).Create(t.Context(), q, metav1.CreateOptions{}))(t)
	q.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: corev1.ResourceList{"count/ingresses.networking.k8s.io": resource.MustParse("0")}} // no controller runs
	must(c.client.CoreV1().ResourceQuotas(ns).UpdateStatus(t.Context(), q, metav1.UpdateOptions{}))(t)
	ingresses := c.dynamic(t).Resource(gvr("extensions/v1beta1/ingresses")).Namespace(ns)
	ingress := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": map[string]any{"name": name}, "spec": map[string]any{"backend": map[string]any{"serviceName": "web", "servicePort": int64(80)}}}}
	}
	must(ingresses.Create(t.Context(), ingress("first"), metav1.CreateOptions{}))(t)
	read := must(c.client.NetworkingV1().Ingresses(ns).Get(t.Context(), "first", metav1.GetOptions{}))(t)
	if class := read.Spec.IngressClassName; class == nil || *class != "bramble" {
		t.Errorf("its class is %v", class)
	}
	const want = `ingresses.networking.k8s.io "second" is forbidden: exceeded quota: q, requested: count/ingresses.networking.k8s.io=1, used: count/ingresses.networking.k8s.io=1, limited: count/ingresses.networking.k8s.io=1`
	if _, err := ingresses.Create(t.Context(), ingress("second"), metav1.CreateOptions{}); err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestOldVersionsWarn(t *testing.T) {
	c, ns := shared(t)
	for path, want := range map[string]string{
		"/apis/apps/v1beta1/namespaces/" + ns + "/deployments": `299 - "apps/v1beta1 Deployment is deprecated in v1.8+; use apps/v1 Deployment"`,
		"/apis/node.k8s.io/v1beta1/runtimeclasses":             `299 - "node.k8s.io/v1beta1 RuntimeClass is deprecated in v1.22+"`, // of which upstream names no successor
	} {
		if got := ask(t, c.config, "GET", path, "").header.Get("Warning"); got != want {
			t.Errorf("%s: warning %s", path, got)
		}
	}
}

func TestOldScale(t *testing.T) {
	c, ns := shared(t)
	replicas := int32(2)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}}
	d.Spec.Template.Labels = map[string]string{"a": "b"}
	d.Spec.Template.Spec = pod("x").Spec
	must(c.client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}))(t)
	for _, gv := range []string{"apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"} {
		s := must(c.dynamic(t).Resource(gvr(gv+"/deployments")).Namespace(ns).Get(t.Context(), "d", metav1.GetOptions{}, "scale"))(t)
		if s.GetAPIVersion() != gv || s.GetKind() != "Scale" || field(s, "spec.replicas") != int64(2) || field(s, "status.targetSelector") != "a=b" {
			t.Errorf("%s: %v", gv, s.Object)
		}
		if err := unstructured.SetNestedField(s.Object, int64(3), "spec", "replicas"); err != nil {
			t.Fatal(err)
		}
		s = must(c.dynamic(t).Resource(gvr(gv+"/deployments")).Namespace(ns).Update(t.Context(), s, metav1.UpdateOptions{}, "scale"))(t)
		if field(s, "spec.replicas") != int64(3) {
			t.Errorf("%s, scaled: %v", gv, s.Object)
		}
		applied := &unstructured.Unstructured{Object: map[string]any{"apiVersion": gv, "kind": "Scale", "metadata": map[string]any{"name": "d"}, "spec": map[string]any{"replicas": int64(2)}}}
		s = must(c.dynamic(t).Resource(gvr(gv+"/deployments")).Namespace(ns).Apply(t.Context(), "d", applied, metav1.ApplyOptions{FieldManager: gv, Force: true}, "scale"))(t)
		if field(s, "spec.replicas") != int64(2) {
			t.Errorf("%s, applied: %v", gv, s.Object)
		}
	}
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: d.Spec.Selector, Template: d.Spec.Template}}
	must(c.client.AppsV1().ReplicaSets(ns).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	sets := c.dynamic(t).Resource(gvr("extensions/v1beta1/replicasets")).Namespace(ns)
	s := must(sets.Patch(t.Context(), "s", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}, "scale"))(t)
	if field(s, "spec.replicas") != int64(5) {
		t.Errorf("a ReplicaSet, scaled: %v", s.Object)
	}
}

// warned is a client, and the warnings that it has heard.
func (c *cluster) warned(t *testing.T) (*heard, dynamic.Interface) {
	t.Helper()
	said := &heard{}
	config := rest.CopyConfig(c.config)
	config.WarningHandler = said
	return said, must(dynamic.NewForConfig(config))(t)
}

// The course's thirteenth manifest, and what kubectl sends when it is applied again: hostpath means hostPath.
func TestMisspelledFields(t *testing.T) {
	c, ns := shared(t)
	said, client := c.warned(t)
	pods := client.Resource(gvr("/v1/pods")).Namespace(ns)
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(must(os.ReadFile(filepath.Join("..", "..", "configs", "manifests", "13-hostpath-pod.yaml")))(t), &o.Object); err != nil {
		t.Fatal(err)
	}
	volume := func(o *unstructured.Unstructured) string {
		volumes, _ := field(o, "spec.volumes").([]any)
		path, _, _ := unstructured.NestedString(volumes[0].(map[string]any), "hostPath", "path")
		return path
	}
	for _, validation := range []string{metav1.FieldValidationStrict, metav1.FieldValidationIgnore} {
		said.texts = nil
		made := must(pods.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: validation, DryRun: []string{metav1.DryRunAll}}))(t)
		if got := volume(made); got != "/dir2" {
			t.Errorf("%s: hostPath %q", validation, got)
		}
		const want = `unknown field "spec.volumes[0].hostpath" is taken for "hostPath": names of fields are case-sensitive`
		if len(said.texts) != 1 || said.texts[0] != want {
			t.Errorf("%s: warned %q", validation, said.texts)
		}
	}
	// A pod's volumes cannot be changed, so whoever applies it again must be seen to change nothing.
	must(pods.Create(t.Context(), o, metav1.CreateOptions{}))(t)
	for kind, body := range map[types.PatchType]string{
		types.StrategicMergePatchType: `{"metadata":{"labels":{"a":"b"}},"spec":{"$setElementOrder/volumes":[{"name":"my-vol"}],"volumes":[{"$retainKeys":["hostpath","name"],"hostpath":{"path":"/dir2"},"name":"my-vol"}]}}`,
		types.ApplyPatchType: `
apiVersion: v1
kind: Pod
metadata: {name: busybox}
spec: {volumes: [{name: my-vol, hostpath: {path: /dir2}}]}
`,
	} {
		patched, err := pods.Patch(t.Context(), "busybox", kind, []byte(body), metav1.PatchOptions{FieldManager: "course"})
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		} else if got := volume(patched); got != "/dir2" {
			t.Errorf("%s: hostPath %q", kind, got)
		}
	}
	// Another unknown field is refused as ever.
	o.SetName("other")
	o.Object["spec"].(map[string]any)["hostpaths"] = "x"
	if _, err := pods.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}); err == nil || !strings.Contains(err.Error(), `unknown field "spec.hostpaths"`) {
		t.Errorf("unknown field: %v", err)
	}
}

// A manifest whose spelling is mended, as the warning asks for, changes nothing and loses nothing; one that is wrong again neither. The
// patches are those that kubectl makes out of what it applied last.
func TestSpellingIsMended(t *testing.T) {
	c, ns := shared(t)
	said, client := c.warned(t)
	deployments := client.Resource(gvr("apps/v1/deployments")).Namespace(ns)
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      containers: [{name: c, image: busybox, volumemounts: [{name: v, mountPath: /v}]}]
      volumes: [{name: v, hostpath: {path: /dir2}}]
`), &o.Object); err != nil {
		t.Fatal(err)
	}
	made := must(deployments.Create(t.Context(), o, metav1.CreateOptions{}))(t)
	const left = `unknown field "spec.template.spec.volumes[0].hostpath" is removed, and "hostPath" is left as it is: names of fields are case-sensitive`
	const taken = `unknown field "spec.template.spec.volumes[0].hostpath" is taken for "hostPath": names of fields are case-sensitive`
	for _, step := range []struct{ name, patch, warning string }{
		{"mended", `{"spec":{"template":{"spec":{"containers":[{"name":"c","volumemounts":null}],"volumes":[{"$retainKeys":["hostPath","name"],"hostpath":null,"name":"v"}]}}}}`, left},
		{"wrong again", `{"spec":{"template":{"spec":{"containers":[{"name":"c","volumeMounts":null,"volumemounts":[{"mountPath":"/v","name":"v"}]}],"volumes":[{"$retainKeys":["hostpath","name"],"hostPath":null,"hostpath":{"path":"/dir2"},"name":"v"}]}}}}`, taken},
	} {
		said.texts = nil
		patched, err := deployments.Patch(t.Context(), "d", types.StrategicMergePatchType, []byte(step.patch), metav1.PatchOptions{FieldManager: "kubectl", FieldValidation: metav1.FieldValidationStrict})
		if err != nil {
			t.Errorf("%s: %v", step.name, err)
			continue
		}
		if got, want := field(patched, "spec"), field(made, "spec"); !equality.Semantic.DeepEqual(got, want) {
			t.Errorf("%s: the spec became\n%v, it was\n%v", step.name, got, want)
		}
		if len(said.texts) != 2 || said.texts[1] != step.warning {
			t.Errorf("%s: warned %q", step.name, said.texts)
		}
	}
}

// The claims of the course's StatefulSet lie one level too deep. Server-side apply takes them as a creation does.
func TestMisplacedClaimsAreApplied(t *testing.T) {
	c, ns := shared(t)
	text := must(os.ReadFile(filepath.Join("..", "..", "configs", "manifests", "02-statefulset.yaml")))(t)
	sets := c.dynamic(t).Resource(gvr("apps/v1beta1/statefulsets")).Namespace(ns)
	for _, when := range []string{"new", "again"} {
		applied, err := sets.Patch(t.Context(), "web", types.ApplyPatchType, text, metav1.PatchOptions{FieldManager: "kubectl", FieldValidation: metav1.FieldValidationStrict})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if claims, _ := field(applied, "spec.volumeClaimTemplates").([]any); len(claims) != 1 {
			t.Errorf("%s: claims %v", when, claims)
		}
	}
}

// heard keeps the warnings of the server.
type heard struct{ texts []string }

func (h *heard) HandleWarningHeader(_ int, _, text string) { h.texts = append(h.texts, text) }
