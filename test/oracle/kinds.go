package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is a resource that the reference serves, with a valid object of it.
type kind struct {
	metav1.APIResource
	gv     schema.GroupVersion
	object map[string]any // nil: none is in objects.yaml
	subs   []metav1.APIResource
}

//go:embed objects.yaml
var objects string

var separator = regexp.MustCompile(`(?m)^---$`)

// kindsOf asks a server what it serves.
func kindsOf(ctx context.Context, s *side, known map[schema.GroupVersionKind]map[string]any) ([]*kind, error) {
	versions := []string{"/api/v1"}
	var groups metav1.APIGroupList
	if err := s.read(ctx, "/apis", &groups); err != nil {
		return nil, err
	}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			versions = append(versions, "/apis/"+v.GroupVersion)
		}
	}
	var out []*kind
	for _, path := range versions {
		var list metav1.APIResourceList
		if err := s.read(ctx, path, &list); err != nil {
			return nil, err
		}
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		of := map[string]*kind{}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				of[r.Name] = &kind{APIResource: r, gv: gv, object: known[gv.WithKind(r.Kind)]}
				out = append(out, of[r.Name])
			}
		}
		for _, r := range list.APIResources {
			if parent, sub, is := strings.Cut(r.Name, "/"); is && of[parent] != nil {
				r.Name = sub
				of[parent].subs = append(of[parent].subs, r)
			}
		}
	}
	return out, nil
}

func (s *side) read(ctx context.Context, path string, into any) error {
	a, err := s.ask(ctx, exchange{method: "GET", path: path})
	if err != nil {
		return err
	}
	if a.code != 200 {
		return fmt.Errorf("%s: %d %.200s", path, a.code, a.body)
	}
	return json.Unmarshal(a.body, into)
}

// manifests reads objects.yaml, for a run in a namespace.
func manifests(ns string) (map[schema.GroupVersionKind]map[string]any, error) {
	c, err := newCredentials()
	if err != nil {
		return nil, err
	}
	values := strings.NewReplacer("$NS", ns, "$CSR", c.request, "$STUB", c.stub, "$CA", c.authority)
	out := map[schema.GroupVersionKind]map[string]any{}
	for _, m := range separator.Split(objects, -1) {
		o, err := object(values.Replace(m))
		if err != nil {
			return nil, err
		}
		gv, err := schema.ParseGroupVersion(text(o["apiVersion"]))
		if err != nil {
			return nil, err
		}
		out[gv.WithKind(text(o["kind"]))] = o
	}
	return out, nil
}

// label names the kind in a report, as `kubectl` does.
func (k *kind) label() string {
	if k.gv.Group == "" {
		return k.Name
	}
	return k.Name + "." + k.gv.Version + "." + k.gv.Group
}

// all is the path of the kind's objects in every namespace; list in the run's own, or the same where it has none.
func (k *kind) all() string {
	if k.gv.Group == "" {
		return "/api/" + k.gv.Version + "/" + k.Name
	}
	return "/apis/" + k.gv.String() + "/" + k.Name
}

func (k *kind) list(ns string) string {
	if !k.Namespaced {
		return k.all()
	}
	return strings.TrimSuffix(k.all(), k.Name) + "namespaces/" + ns + "/" + k.Name
}

func (k *kind) name() string {
	meta, _ := k.object["metadata"].(map[string]any)
	return text(meta["name"])
}

func (k *kind) one(ns string) string { return k.list(ns) + "/" + k.name() }

func (k *kind) can(verb string) bool { return slices.Contains(k.Verbs, verb) }
