package api

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/typed/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"
)

// widget is a definition of widgets in a group; its two versions share their objects.
const widget = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd], categories: [things]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    selectableFields: [{jsonPath: .spec.color}]
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 0, description: How many.}
              color: {type: string, default: red}
              parts: {type: array, items: {type: object, required: [name], properties: {name: {type: string}, count: {type: integer}}}, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name]}
            x-kubernetes-validations: [{rule: "self.size < 10 || self.color == 'blue'", message: big ones are blue}]
          status: {type: object, properties: {size: {type: integer}}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

func (c *cluster) definitions(t *testing.T) apiextensions.CustomResourceDefinitionInterface {
	t.Helper()
	return must(apiextensions.NewForConfig(c.config))(t).CustomResourceDefinitions()
}

// define makes the widgets of a group, and returns as soon as a watch says that they are established.
func (c *cluster) define(t *testing.T, group string, change ...func(*apiextensionsv1.CustomResourceDefinition)) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(widget, "GROUP", group)), crd); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(crd)
	}
	made := must(c.definitions(t).Create(t.Context(), crd, metav1.CreateOptions{}))(t)
	return c.awaitDefinition(t, made, "is established", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
	})
}

func (c *cluster) awaitDefinition(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, what string, ok func(*apiextensionsv1.CustomResourceDefinition) bool) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	w := must(c.definitions(t).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + crd.Name, ResourceVersion: crd.ResourceVersion}))(t)
	defer w.Stop()
	for end := time.After(20 * time.Second); ; {
		select {
		case e := <-w.ResultChan():
			if now, is := e.Object.(*apiextensionsv1.CustomResourceDefinition); is && ok(now) {
				return now
			}
		case <-end:
			t.Fatalf("%s never %s", crd.Name, what)
		}
	}
}

// undefine deletes a definition and returns when it is gone.
func (c *cluster) undefine(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition) {
	t.Helper()
	latest := must(c.definitions(t).Get(t.Context(), crd.Name, metav1.GetOptions{}))(t)
	w := must(c.definitions(t).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + crd.Name, ResourceVersion: latest.ResourceVersion}))(t)
	defer w.Stop()
	if err := c.definitions(t).Delete(t.Context(), crd.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for end := time.After(40 * time.Second); ; {
		select {
		case e := <-w.ResultChan():
			if e.Type == watch.Deleted {
				return
			}
		case <-end:
			t.Fatalf("%s was never deleted", crd.Name)
		}
	}
}
