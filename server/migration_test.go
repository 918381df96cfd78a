package server

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A migration writes the objects anew that lie in a version which is stored no more, and no others; the definition can then lose that
// version. Of one resource one runs at a time, and what cannot be migrated is said.
func TestStorageVersionMigration(t *testing.T) {
	client := start(t, t.TempDir())
	ctx, raw, migrations := t.Context(), client.Discovery().RESTClient(), client.StoragemigrationV1().StorageVersionMigrations()
	const definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com"
	two := strings.Replace(things, `"versions":[`, `"versions":[{"name":"v2","served":true,"storage":false,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}},`, 1)
	if err := raw.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").SetHeader("Content-Type", "application/json").Body([]byte(two)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a thing is made", func() bool {
		return raw.Post().AbsPath("/apis/example.com/v1/namespaces/default/things").SetHeader("Content-Type", "application/json").
			Body([]byte(`{"apiVersion":"example.com/v1","kind":"Thing","metadata":{"name":"one"},"spec":{"a":1}}`)).Do(ctx).Error() == nil
	})
	if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	type object struct {
		Metadata struct{ ResourceVersion string }
		Status   struct {
			StoredVersions []string
			Conditions     []metav1.Condition
		}
	}
	get := func(path string) (o object) {
		t.Helper()
		body, err := raw.Get().AbsPath(path).SetHeader("Accept", "application/json").DoRaw(ctx)
		if err == nil {
			err = json.Unmarshal(body, &o)
		}
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	patch := func(body string) error {
		return raw.Patch(types.JSONPatchType).AbsPath(definition).Body([]byte(body)).Do(ctx).Error()
	}
	if err := patch(`[{"op":"replace","path":"/spec/versions/0/storage","value":true},{"op":"replace","path":"/spec/versions/1/storage","value":false}]`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "version 2 is stored", func() bool {
		return slices.Equal(get(definition).Status.StoredVersions, []string{"v1", "v2"})
	})
	const thing, m = "/apis/example.com/v2/namespaces/default/things/one", "/api/v1/namespaces/default/configmaps/m"
	before, configMap := get(thing), get(m)
	migrate := func(name, group, resource string) {
		t.Helper()
		_, err := migrations.Create(ctx, &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: group, Resource: resource}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	said := func(name, condition string, status metav1.ConditionStatus) (message string, is bool) {
		t.Helper()
		s, err := migrations.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(s.Status.Conditions, condition)
		if c == nil {
			return "", false
		}
		return c.Message, c.Status == status
	}
	migrate("things", "example.com", "things")
	migrate("things-again", "example.com", "things")
	migrate("configmaps", "", "configmaps")
	migrate("reviews", "authorization.k8s.io", "selfsubjectaccessreviews")
	for _, name := range []string{"things", "things-again", "configmaps"} {
		eventually(t, name+" are migrated", func() bool {
			_, done := said(name, "Succeeded", metav1.ConditionTrue)
			_, over := said(name, "Running", metav1.ConditionFalse)
			return done && over
		})
	}
	eventually(t, "what cannot be migrated is refused", func() bool {
		message, is := said("reviews", "Failed", metav1.ConditionTrue)
		return is && strings.Contains(message, `does not support discovery operations: [update patch list]`)
	})
	if after := get(thing); after.Metadata.ResourceVersion == before.Metadata.ResourceVersion {
		t.Error("an object in a version that is stored no more was not written anew")
	}
	if after := get(m); after.Metadata.ResourceVersion != configMap.Metadata.ResourceVersion {
		t.Error("an object was written that lay as it is written now")
	}
	d := get(definition)
	if c := meta.FindStatusCondition(d.Status.Conditions, "StorageMigrating"); c == nil || c.Status != metav1.ConditionFalse || c.Reason != "MigrationSucceeded" {
		t.Errorf("the definition says %+v", c)
	}
	if !slices.Equal(d.Status.StoredVersions, []string{"v2"}) {
		t.Errorf("versions %v are stored", d.Status.StoredVersions)
	}
	if err := patch(`[{"op":"remove","path":"/spec/versions/1"}]`); err != nil {
		t.Errorf("version 1 cannot be removed: %v", err)
	}
}
