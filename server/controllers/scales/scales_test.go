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
