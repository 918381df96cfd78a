package api

import (
	"bytes"
	"mime"
	"net/http"
	"regexp"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1beta1 "k8s.io/api/batch/v1beta1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	deploymentstore "k8s.io/kubernetes/pkg/registry/apps/deployment/storage"
	replicasetstore "k8s.io/kubernetes/pkg/registry/apps/replicaset/storage"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"
)

// oldVersion is a version that upstream has stopped to serve. Its objects are converted at the edge, both ways, with that
// version's own defaults, and live in the storages of the present version.
type oldVersion struct {
	version string
	from    origin
}

// origin says from which group version the storages of each resource are taken; subresources follow their resource.
type origin map[string]schema.GroupVersion

func from(gv string, resources ...string) origin { return origin{}.and(gv, resources...) }

func (o origin) and(gv string, resources ...string) origin {
	group, version, _ := strings.Cut(gv, "/")
	for _, r := range resources {
		o[r] = schema.GroupVersion{Group: group, Version: version}
	}
	return o
}

// storages picks the storages of an old version out of those that have been made.
func (o origin) storages(made map[schema.GroupVersion]map[string]rest.Storage) map[string]rest.Storage {
	out := map[string]rest.Storage{}
	for resource, gv := range o {
		for path, s := range made[gv] {
			if path == resource || strings.HasPrefix(path, resource+"/") {
				out[path] = s
			}
		}
	}
	return out
}

// Two versions left upstream's code altogether. The CronJob of batch/v2alpha1 is field by field that of batch/v1beta1, with the same
// defaults, and so is the HorizontalPodAutoscaler of autoscaling/v2beta2 that of autoscaling/v2, which has become more since.
func init() {
	for gv, kinds := range map[schema.GroupVersion][]runtime.Object{
		{Group: "batch", Version: "v2alpha1"}:      {&batchv1beta1.CronJob{}, &batchv1beta1.CronJobList{}},
		{Group: "autoscaling", Version: "v2beta2"}: {&autoscalingv2.HorizontalPodAutoscaler{}, &autoscalingv2.HorizontalPodAutoscalerList{}},
	} {
		legacyscheme.Scheme.AddKnownTypes(gv, kinds...)
		metav1.AddToGroupVersion(legacyscheme.Scheme, gv)
	}
}

// An IngressClass of networking.k8s.io/v1beta1 had a scope before upstream stopped to serve it, and today's validation wants one.
func init() {
	legacyscheme.Scheme.AddTypeDefaultingFunc(&networkingv1beta1.IngressClass{}, func(o any) {
		if p := o.(*networkingv1beta1.IngressClass).Spec.Parameters; p != nil && p.Scope == nil {
			p.Scope = new(networkingv1beta1.IngressClassParametersReferenceScopeCluster)
		}
	})
}

// A scale is written by the version that it is asked in, and of those that upstream's handlers do not know they end the process. The
// versions of apps they know still.
func init() {
	replicas := fieldpath.MakePathOrDie("spec", "replicas")
	for _, known := range []managedfields.ResourcePathMappings{deploymentstore.ReplicasPathMappings(), replicasetstore.ReplicasPathMappings()} {
		known["extensions/v1beta1"] = replicas
	}
}

// plainNames announces the resources of a group that repeats others' under their full names alone: a short name, or "all", means the
// present group's, and clients need not ask which.
func plainNames(resources []apidiscoveryv2.APIResourceDiscovery) {
	for i := range resources {
		resources[i].ShortNames, resources[i].Categories = nil, nil
	}
}

// lenient serves requests of an old version. When those versions were current a server dropped fields that it did not know, and
// manifests of that time rely on it: strict field validation, which today's kubectl asks for, becomes a warning.
func lenient(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.RawQuery, "fieldValidation=Strict") {
			u := *r.URL
			u.RawQuery = strings.Replace(u.RawQuery, "fieldValidation=Strict", "fieldValidation=Warn", 1)
			r2 := *r
			r2.URL = &u
			r = &r2
		}
		if strings.Contains(r.URL.Path, "/statefulsets") && (r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch) {
			liftClaims(r)
		}
		h(w, r.WithContext(warning.WithWarningRecorder(r.Context(), stillServed{r})))
	}
}

// stillServed passes warnings on, without upstream's claim that an old version cannot be had.
type stillServed struct{ r *http.Request }

var unavailable = regexp.MustCompile(`, unavailable in v[0-9.]+\+`)

func (s stillServed) AddWarning(agent, text string) {
	warning.AddWarning(s.r.Context(), agent, unavailable.ReplaceAllString(text, ""))
}

// liftClaims moves volumeClaimTemplates that lie in a StatefulSet's pod template, where they mean nothing, to where they belong. Old
// servers dropped them there and did not notice that the volumes were missing; today's validation does, so that such a manifest
// would be refused. What cannot be read is left to the handler to refuse. Of patches only those that apply a manifest are looked at:
// in the others, which say what changes, the field is dropped as any that is unknown.
func liftClaims(r *http.Request) {
	const field = "volumeClaimTemplates"
	body, err := readBody(r)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	whole := kind == runtime.ContentTypeJSON || kind == runtime.ContentTypeYAML || kind == string(types.ApplyYAMLPatchType)
	if err != nil || !whole || !bytes.Contains(body, []byte(field)) {
		return
	}
	set := map[string]any{}
	text, err := yaml.YAMLToJSON(body)
	if err == nil {
		err = utiljson.Unmarshal(text, &set)
	}
	claims, misplaced, _ := unstructured.NestedSlice(set, "spec", "template", "spec", field)
	_, placed, _ := unstructured.NestedFieldNoCopy(set, "spec", field)
	if err != nil || !misplaced || placed {
		return
	}
	unstructured.RemoveNestedField(set, "spec", "template", "spec", field)
	if unstructured.SetNestedSlice(set, claims, "spec", field) != nil {
		return
	}
	if text, err = utiljson.Marshal(set); err != nil {
		return
	}
	warning.AddWarning(r.Context(), "", "spec.template.spec."+field+" belongs one level up and is taken as spec."+field)
	replaceBody(r, text) // JSON is YAML
}
