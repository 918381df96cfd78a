package clients

import (
	"context"
	"errors"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

var (
	gardens    = schema.GroupVersion{Group: "clients.bramble.dev", Version: "v1"}
	gardenGVR  = gardens.WithResource("gardens")
	gardenKind = gardens.WithKind("Garden")
)

// gardenDefinition has what the tests ask of custom resources: defaults, pruning, a rule, status and scale.
const gardenDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gardens.clients.bramble.dev}
spec:
  group: clients.bramble.dev
  scope: Namespaced
  names: {plural: gardens, singular: garden, kind: Garden, listKind: GardenList, shortNames: [gdn], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.beds, statusReplicasPath: .status.beds, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.crop}]
    additionalPrinterColumns: [{name: Crop, type: string, jsonPath: .spec.crop}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [crop]
            x-kubernetes-validations: [{rule: "self.beds <= 100", message: "no garden is that large"}]
            properties:
              crop: {type: string, minLength: 1}
              beds: {type: integer, format: int32, default: 1}
              tools: {type: array, items: {type: string}, x-kubernetes-list-type: set}
          status:
            type: object
            properties:
              beds: {type: integer, format: int32}
              selector: {type: string}
              phase: {type: string}
`

// defineGardens makes the definition, and waits as every operator does: for Established.
func defineGardens(t *testing.T, s *server) {
	t.Helper()
	client := must(apiextensions.NewForConfig(s.config(t)))(t).ApiextensionsV1().CustomResourceDefinitions()
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict([]byte(gardenDefinition), &crd); err != nil {
		t.Fatal(err)
	}
	must(client.Create(t.Context(), &crd, metav1.CreateOptions{}))(t)
	established(t, s, crd.Name)
}

func established(t *testing.T, s *server, name string) {
	t.Helper()
	client := must(apiextensions.NewForConfig(s.config(t)))(t).ApiextensionsV1().CustomResourceDefinitions()
	eventually(t, 20*time.Second, name+" is established", func(ctx context.Context) error {
		crd, err := client.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range crd.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return nil
			}
		}
		return errors.New("not yet")
	})
}
