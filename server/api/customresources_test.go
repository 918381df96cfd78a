package api

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Who is told that a definition is established finds it served, in discovery and in the documents at once, and not any more when it has gone.
func TestEstablishedMeansServed(t *testing.T) {
	c := start(t, t.TempDir())
	expect := func(path, want string, headers ...string) {
		t.Helper()
		if a := ask(t, c.config, "GET", path, "", headers...); a.code != 200 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d without %q: %.300s", path, a.code, want, a.body)
		}
	}
	for round := range 10 {
		group := fmt.Sprintf("round%d.example.com", round)
		crd := c.define(t, group)
		expect("/apis/"+group+"/v1/widgets", "WidgetList")
		expect("/apis/"+group+"/v1beta1/namespaces/default/widgets", "WidgetList")
		expect("/apis/"+group+"/v1", "widgets/scale")
		expect("/apis/"+group, `"v1beta1"`)
		expect("/apis", group)
		expect("/apis", group, "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		expect("/openapi/v3", "apis/"+group+"/v1")
		expect("/openapi/v3/apis/"+group+"/v1", "How many.")
		expect("/openapi/v2", fmt.Sprintf("com.example.round%d.v1.WidgetList", round))
		if round%2 == 0 {
			continue
		}
		c.undefine(t, crd)
		for _, path := range []string{"/v1/widgets", "/v1", ""} {
			if a := ask(t, c.config, "GET", "/apis/"+group+path, ""); a.code != 404 {
				t.Errorf("%s when it has gone: %d %.200s", path, a.code, a.body)
			}
		}
		for _, path := range []string{"/apis", "/openapi/v2", "/openapi/v3"} {
			if a := ask(t, c.config, "GET", path, ""); a.code != 200 || strings.Contains(a.body, group) {
				t.Errorf("%s still has %s: %d", path, group, a.code)
			}
		}
	}
}

// A cluster without a definition carries nothing of what serves them, before the first and after the last.
func TestOnlyDefinitionsCost(t *testing.T) {
	c := start(t, t.TempDir())
	list := must(c.definitions(t).List(t.Context(), metav1.ListOptions{}))(t)
	if len(list.Items) != 0 {
		t.Errorf("a new cluster has %d definitions", len(list.Items))
	}
	time.Sleep(2 * time.Second) // goroutines of the start end
	before := runtime.NumGoroutine()
	crd := c.define(t, "cost.example.com")
	with := runtime.NumGoroutine()
	c.undefine(t, crd)
	after := runtime.NumGoroutine()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && after > before; time.Sleep(100 * time.Millisecond) {
		after = runtime.NumGoroutine()
	}
	if with <= before || after > before {
		t.Errorf("%d goroutines before the first definition, %d with it, %d after the last", before, with, after)
	}
}

// A restarted server serves what was defined, from the first request on.
func TestDefinitionsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	c.define(t, "restart.example.com")
	path := "/apis/restart.example.com/v1/namespaces/default/widgets"
	if a := ask(t, c.config, "POST", path, `{"apiVersion":"restart.example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"size":1}}`); a.code != 201 {
		t.Fatalf("create: %d %s", a.code, a.body)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil
	c = start(t, dir)
	if a := ask(t, c.config, "GET", path+"/w", ""); a.code != 200 || !strings.Contains(a.body, `"color":"red"`) {
		t.Errorf("after a restart: %d %s", a.code, a.body)
	}
	if a := ask(t, c.config, "GET", "/apis/restart.example.com", ""); a.code != 200 {
		t.Errorf("discovery after a restart: %d %s", a.code, a.body)
	}
}

// Deleting a definition deletes the objects and ends their watches.
func TestADefinitionTakesItsObjectsAlong(t *testing.T) {
	c, ns := shared(t)
	crd := c.define(t, "gone.example.com")
	resource := crd.Spec.Group + "/v1"
	path := "/apis/" + resource + "/namespaces/" + ns + "/widgets"
	for _, name := range []string{"a", "b"} {
		if a := ask(t, c.config, "POST", path, fmt.Sprintf(`{"apiVersion":%q,"kind":"Widget","metadata":{"name":%q},"spec":{"size":1}}`, resource, name)); a.code != 201 {
			t.Fatalf("create: %d %s", a.code, a.body)
		}
	}
	w := must(c.dynamic(t).Resource(schema.GroupVersionResource{Group: crd.Spec.Group, Version: "v1", Resource: "widgets"}).Watch(t.Context(), metav1.ListOptions{}))(t)
	defer w.Stop()
	c.undefine(t, crd)
	var told []string
	for e := range w.ResultChan() { // ends with the definition
		told = append(told, string(e.Type))
	}
	slices.Sort(told)
	if want := []string{"ADDED", "ADDED", "DELETED", "DELETED"}; !slices.Equal(told, want) {
		t.Errorf("the watch told %v", told)
	}
	if n, _ := c.db.Stand("/registry/gone.example.com/widgets"); n != 0 {
		t.Errorf("%d objects are left in the store", n)
	}
}

// A definition that claims the name of a built-in resource serves nothing and, above all, deletes nothing of it.
func TestADefinitionTouchesNothingBuiltIn(t *testing.T) {
	c, ns := shared(t)
	ingress := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "precious"}, Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
	must(c.client.NetworkingV1().Ingresses(ns).Create(t.Context(), ingress, metav1.CreateOptions{}))(t)
	before := ask(t, c.config, "GET", "/apis", "")
	crd := c.define(t, "networking.k8s.io", func(crd *apiextensionsv1.CustomResourceDefinition) {
		crd.Name, crd.Spec.Names = "ingresses.networking.k8s.io", apiextensionsv1.CustomResourceDefinitionNames{Plural: "ingresses", Singular: "ingress", Kind: "Ingress", ListKind: "IngressList"}
		crd.Annotations = map[string]string{apiextensionsv1.KubeAPIApprovedAnnotation: "unapproved, a test"}
	})
	if after := ask(t, c.config, "GET", "/apis", ""); after.body != before.body {
		t.Errorf("the groups have changed: %s", after.body)
	}
	c.undefine(t, crd)
	if _, err := c.client.NetworkingV1().Ingresses(ns).Get(t.Context(), "precious", metav1.GetOptions{}); err != nil {
		t.Errorf("the Ingress: %v", err)
	}
}

// Conditions say why a definition is not served.
func TestConditionsOfDefinitions(t *testing.T) {
	c, _ := shared(t)
	first := c.define(t, "names.example.com")
	second := first.DeepCopy()
	second.ObjectMeta = metav1.ObjectMeta{Name: "gadgets.names.example.com"}
	second.Spec.Names.Plural, second.Spec.Names.Singular, second.Spec.Names.ShortNames = "gadgets", "gadget", nil
	made := must(c.definitions(t).Create(t.Context(), second, metav1.CreateOptions{}))(t)
	refused := c.awaitDefinition(t, made, "is refused", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return apihelpers.IsCRDConditionFalse(crd, apiextensionsv1.NamesAccepted)
	})
	if got := apihelpers.FindCRDCondition(refused, apiextensionsv1.NamesAccepted); got.Reason != "ListKindConflict" && got.Reason != "KindConflict" {
		t.Errorf("the condition is %+v", got)
	}
	if a := ask(t, c.config, "GET", "/apis/names.example.com/v1/gadgets", ""); a.code != 404 {
		t.Errorf("it is served: %d", a.code)
	}
	// The name is free when its owner goes.
	c.undefine(t, first)
	c.awaitDefinition(t, refused, "is established", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
	})
	c.undefine(t, second)
	_, err := c.definitions(t).Create(t.Context(), &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("an empty definition: %v", err)
	}
}

// A definition's kinds obey roles as any other.
func TestRolesRuleCustomResources(t *testing.T) {
	c, ns := shared(t)
	crd := c.define(t, "roles.example.com")
	defer c.undefine(t, crd)
	user := must(c.as("jane"))(t)
	path := "/apis/roles.example.com/v1/namespaces/" + ns + "/widgets"
	if a := ask(t, user, "GET", path, ""); a.code != http.StatusForbidden {
		t.Errorf("without a role: %d %s", a.code, a.body)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"roles.example.com"}, Resources: []string{"widgets"}, Verbs: []string{"list"}}}}
	must(c.client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}))(t)
	must(c.client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "r"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "the role counts", func() bool { return ask(t, user, "GET", path, "").code == 200 })
	if a := ask(t, user, "DELETE", path, ""); a.code != http.StatusForbidden {
		t.Errorf("what the role does not say: %d %s", a.code, a.body)
	}
}

// What is written to a definition holds for the next request.
func TestAChangedDefinitionIsInEffect(t *testing.T) {
	c, ns := shared(t)
	crd := c.define(t, "change.example.com")
	defer c.undefine(t, crd)
	for round := range 5 {
		limit := float64(round)
		latest := must(c.definitions(t).Get(t.Context(), crd.Name, metav1.GetOptions{}))(t)
		spec := latest.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		size := spec.Properties["size"]
		size.Maximum = &limit
		spec.Properties["size"] = size
		must(c.definitions(t).Update(t.Context(), latest, metav1.UpdateOptions{}))(t)
		for n, want := range map[int]int{round: 201, round + 1: 422} {
			body := fmt.Sprintf(`{"apiVersion":"change.example.com/v1","kind":"Widget","metadata":{"name":"w%d-%d"},"spec":{"size":%d}}`, round, n, n)
			if a := ask(t, c.config, "POST", "/apis/change.example.com/v1/namespaces/"+ns+"/widgets", body); a.code != want {
				t.Errorf("size %d with at most %d: %d %s", n, round, a.code, a.body)
			}
		}
	}
}
