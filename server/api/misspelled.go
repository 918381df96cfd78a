package api

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"

	"bramble.dev/server/api/spelling"
)

// bodyTypes are the Go types of what the resources of one version are written with, by "resource" and "resource/subresource".
type bodyTypes map[string]reflect.Type

func bodyTypesOf(gv schema.GroupVersion, resources []apidiscoveryv2.APIResourceDiscovery) bodyTypes {
	all := legacyscheme.Scheme.AllKnownTypes()
	out := bodyTypes{}
	add := func(path string, kind *metav1.GroupVersionKind) {
		if kind == nil {
			return
		}
		k := gv.WithKind(kind.Kind)
		if kind.Version != "" { // else that of the resource
			k = schema.GroupVersionKind(*kind)
		}
		if t := all[k]; t != nil {
			out[path] = t
		}
	}
	for _, r := range resources {
		add(r.Resource, r.ResponseKind)
		for _, s := range r.Subresources {
			add(r.Resource+"/"+s.Subresource, s.ResponseKind)
		}
	}
	return out
}

// misspelled wraps a handler that writes: a field whose name differs from the right one by case alone is taken for that one, with a
// warning (package spelling says why). JSON patches name fields by paths and stay as they are.
func (b bodyTypes) misspelled(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			if info, ok := genericapirequest.RequestInfoFrom(r.Context()); ok {
				b.mend(r, strings.TrimSuffix(info.Resource+"/"+info.Subresource, "/"))
			}
		}
		h(w, r)
	}
}

func (b bodyTypes) mend(r *http.Request, resource string) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	mend, isYAML := spelling.Mend, false
	switch kind {
	case "", runtime.ContentTypeJSON:
	case string(types.MergePatchType), string(types.StrategicMergePatchType):
		mend = spelling.MendPatch
	case runtime.ContentTypeYAML, string(types.ApplyYAMLPatchType):
		isYAML = true
	default:
		return
	}
	t := b[resource]
	if t == nil || r.Body == nil {
		return
	}
	body, err := readBody(r)
	if err != nil {
		return
	}
	written := body
	if isYAML && !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		if written, err = yaml.YAMLToJSON(body); err != nil {
			return
		}
	}
	mended := mend(written, t)
	if len(mended) == 0 {
		return
	}
	for _, m := range mended {
		warning.AddWarning(r.Context(), "", m.String())
	}
	replaceBody(r, written) // JSON is YAML
}

// readBody reads what the handler would, and puts it back: what is too long, or broken off, is the handler's to refuse.
func readBody(r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	return body, err
}

func replaceBody(r *http.Request, body []byte) {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}
