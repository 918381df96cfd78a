package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// storageMigrating is the condition of a definition whose objects are written anew.
const storageMigrating = "StorageMigrating"

// definition is what a migration reads and writes of a CustomResourceDefinition.
type definition struct {
	Metadata struct {
		Name            string `json:"name"`
		Generation      int64  `json:"generation"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		Versions []struct {
			Name    string `json:"name"`
			Storage bool   `json:"storage"`
		} `json:"versions"`
	} `json:"spec"`
	Status struct {
		Conditions     []metav1.Condition `json:"conditions,omitempty"`
		StoredVersions []string           `json:"storedVersions,omitempty"`
	} `json:"status"`
}

// definition reads that of a resource; nil if it has none.
func (c *controller) definition(ctx context.Context, gr metav1.GroupResource) (*definition, error) {
	body, err := c.Client.CoreV1().RESTClient().Get().AbsPath(definitions, gr.Resource+"."+gr.Group).SetHeader("Accept", "application/json").DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	var d definition
	if err == nil {
		err = json.Unmarshal(body, &d)
	}
	if err != nil {
		return nil, fmt.Errorf("definition of %s.%s: %w", gr.Resource, gr.Group, err)
	}
	return &d, nil
}

const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// marked is the generation at which the mark was set; 0 if there is none.
func (d *definition) marked() int64 {
	if mark := meta.FindStatusCondition(d.Status.Conditions, storageMigrating); mark != nil {
		return mark.ObservedGeneration
	}
	return 0
}

// stored is the version that objects are written in.
func (d *definition) stored() []string {
	for _, v := range d.Spec.Versions {
		if v.Storage {
			return []string{v.Name}
		}
	}
	return nil
}

// condition leaves of the status the mark alone, to be applied.
func (d *definition) condition(is metav1.ConditionStatus, reason, message string) {
	d.Status.StoredVersions = nil
	d.Status.Conditions = []metav1.Condition{{
		Type: storageMigrating, Status: is, Reason: reason, Message: message, LastTransitionTime: metav1.Now(), ObservedGeneration: d.Metadata.Generation,
	}}
}

// applyStatus writes the status over the definition that was read, and over none that has changed since.
func (c *controller) applyStatus(ctx context.Context, d *definition) error {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": d.Metadata.Name, "resourceVersion": d.Metadata.ResourceVersion},
		"status":   d.Status,
	})
	if err != nil {
		return err
	}
	err = c.Client.CoreV1().RESTClient().Patch(types.ApplyYAMLPatchType).AbsPath(definitions, d.Metadata.Name, "status").
		Param("fieldManager", "migration-runner-controller").Param("force", "true").
		SetHeader("Accept", "application/json").Body(body).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("status of definition %s: %w", d.Metadata.Name, err)
	}
	return nil
}
