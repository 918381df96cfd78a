// Package scales reads and writes the size of whatever has a scale: the
// built-in workloads, and custom resources that declare one.
//
// Invariant: a kind is found in what discovery says at the time, so that one
// that was defined a moment ago works.
//
//	resource, err := scales.Find(ctx, client, appsv1.SchemeGroupVersion, "Deployment")
//	scale, err := scales.Get(ctx, client, resource, "default", "web")
package scales

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

// Find gives the resource of a kind that has a scale.
func Find(ctx context.Context, client kubernetes.Interface, gv schema.GroupVersion, kind string) (schema.GroupVersionResource, error) {
	resource, served, err := find(ctx, client, gv, kind)
	if err == nil && !served[resource.Resource+"/scale"] {
		return schema.GroupVersionResource{}, fmt.Errorf("%s does not implement the scale subresource", resource.GroupResource())
	}
	return resource, err
}

// Resource gives the resource of a kind.
func Resource(ctx context.Context, client kubernetes.Interface, gv schema.GroupVersion, kind string) (schema.GroupVersionResource, error) {
	resource, _, err := find(ctx, client, gv, kind)
	return resource, err
}

func find(ctx context.Context, client kubernetes.Interface, gv schema.GroupVersion, kind string) (found schema.GroupVersionResource, names map[string]bool, err error) {
	unknown := &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: kind}}
	served, err := discovery.ToDiscoveryInterfaceWithContext(client.Discovery()).ServerResourcesForGroupVersionWithContext(ctx, gv.String())
	if apierrors.IsNotFound(err) {
		return found, nil, unknown
	}
	if err != nil {
		return found, nil, fmt.Errorf("resources of %s: %w", gv, err)
	}
	resource := ""
	names = map[string]bool{}
	for _, r := range served.APIResources {
		if r.Kind == kind && resource == "" && !strings.Contains(r.Name, "/") {
			resource = r.Name
		}
		names[r.Name] = true
	}
	if resource == "" {
		return found, nil, unknown
	}
	return gv.WithResource(resource), names, nil
}

// Get reads a scale.
func Get(ctx context.Context, client kubernetes.Interface, r schema.GroupVersionResource, namespace, name string) (*autoscalingv1.Scale, error) {
	return answer(ctx, path(client.CoreV1().RESTClient().Get(), r, namespace, name))
}

// Update writes a scale over the version that was read, in the API version that it was read in.
func Update(ctx context.Context, client kubernetes.Interface, r schema.GroupVersionResource, scale *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
	written := struct { // nobody writes a status, which is not the same in all API versions
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              autoscalingv1.ScaleSpec `json:"spec"`
	}{scale.TypeMeta, scale.ObjectMeta, scale.Spec}
	if written.APIVersion == "" {
		written.APIVersion, written.Kind = autoscalingv1.SchemeGroupVersion.String(), "Scale"
	}
	body, err := json.Marshal(written)
	if err != nil {
		return nil, err
	}
	return answer(ctx, path(client.CoreV1().RESTClient().Put(), r, scale.Namespace, scale.Name).SetHeader("Content-Type", "application/json").Body(body))
}

func path(r *rest.Request, gvr schema.GroupVersionResource, namespace, name string) *rest.Request {
	root := []string{"/apis", gvr.Group, gvr.Version}
	if gvr.Group == "" {
		root = []string{"/api", gvr.Version}
	}
	return r.AbsPath(append(root, "namespaces", namespace, gvr.Resource, name, "scale")...).SetHeader("Accept", "application/json")
}

func answer(ctx context.Context, r *rest.Request) (*autoscalingv1.Scale, error) {
	body, err := r.DoRaw(ctx)
	if err != nil {
		return nil, Said(body, err)
	}
	scale, err := parse(body)
	if err != nil {
		return nil, fmt.Errorf("scale: %w", err)
	}
	return scale, nil
}

// parse reads a scale of any version. Those that old versions of the workloads have (autoscalers of their time name them) select by a
// map, and say beside it what it means.
func parse(body []byte) (*autoscalingv1.Scale, error) {
	var read struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              autoscalingv1.ScaleSpec `json:"spec"`
		Status            struct {
			Replicas       int32           `json:"replicas"`
			Selector       json.RawMessage `json:"selector"`
			TargetSelector string          `json:"targetSelector"`
		} `json:"status"`
	}
	if err := json.Unmarshal(body, &read); err != nil {
		return nil, err
	}
	scale := &autoscalingv1.Scale{TypeMeta: read.TypeMeta, ObjectMeta: read.ObjectMeta, Spec: read.Spec}
	scale.Status = autoscalingv1.ScaleStatus{Replicas: read.Status.Replicas, Selector: read.Status.TargetSelector}
	if len(read.Status.Selector) == 0 || scale.Status.Selector != "" {
		return scale, nil
	}
	return scale, json.Unmarshal(read.Status.Selector, &scale.Status.Selector)
}

// Said puts the server's own words in place of the client's, which are about the request.
func Said(body []byte, err error) error {
	var s apierrors.StatusError
	if json.Unmarshal(body, &s.ErrStatus) == nil && s.ErrStatus.Kind == "Status" && s.ErrStatus.Message != "" {
		return &s
	}
	return err
}
