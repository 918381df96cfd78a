package scales

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
)

// What cannot be scaled is named in upstream's words, which the condition of an autoscaler repeats.
func TestFind(t *testing.T) {
	client := fake.NewClientset()
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{
		{Name: "deployments", Kind: "Deployment"}, {Name: "deployments/scale", Kind: "Scale"}, {Name: "daemonsets", Kind: "DaemonSet"},
	}}}
	for _, x := range []struct{ group, kind, found, says string }{
		{"apps", "Deployment", "deployments", ""},
		{"apps", "DaemonSet", "", `daemonsets.apps does not implement the scale subresource`},
		{"apps", "Deploymint", "", `no matches for kind "Deploymint" in group "apps"`},
		{"apes", "Deployment", "", `no matches for kind "Deployment" in group "apes"`},
	} {
		resource, err := Find(t.Context(), client, schema.GroupVersion{Group: x.group, Version: "v1"}, x.kind)
		if resource.Resource != x.found || (err != nil || x.says != "") && (err == nil || err.Error() != x.says) {
			t.Errorf("%s in %s: %q, %v", x.kind, x.group, resource.Resource, err)
		}
	}
}

// The scales of all versions say the same, each in its way.
func TestParse(t *testing.T) {
	for name, x := range map[string]struct{ text, selector string }{
		"present":       {`{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"web"},"spec":{"replicas":3},"status":{"replicas":2,"selector":"app=web"}}`, "app=web"},
		"old":           {`{"kind":"Scale","apiVersion":"extensions/v1beta1","metadata":{"name":"web"},"spec":{"replicas":3},"status":{"replicas":2,"selector":{"app":"web"},"targetSelector":"app=web"}}`, "app=web"},
		"old, no map":   {`{"kind":"Scale","apiVersion":"apps/v1beta1","metadata":{"name":"web"},"spec":{"replicas":3},"status":{"replicas":2,"selector":null,"targetSelector":"app in (a,b)"}}`, "app in (a,b)"},
		"no selector":   {`{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"web"},"spec":{"replicas":3},"status":{"replicas":2}}`, ""},
		"null selector": {`{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"web"},"spec":{"replicas":3},"status":{"replicas":2,"selector":null}}`, ""},
	} {
		s, err := parse([]byte(x.text))
		if err != nil || s.Kind != "Scale" || s.APIVersion == "" || s.Name != "web" || s.Spec.Replicas != 3 || s.Status.Replicas != 2 || s.Status.Selector != x.selector {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if _, err := parse([]byte(`{"status":{"selector":{"app":"web"}}}`)); err == nil {
		t.Error("a selector that says nothing in words is taken for none")
	}
}
