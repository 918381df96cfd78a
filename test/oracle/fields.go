package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fieldByField changes a valid object in one place at a time, and sends each as a dry run: to be created, and (one in two) to replace
// what is there. What is compared so is all of upstream's validation, its defaults, and its words.
func fieldByField(k *kind, ns string) (out []exchange) {
	n := 0
	send := func(what string, changed map[string]any) {
		if k.can("create") {
			out = append(out, exchange{group: "fields", name: k.label() + ": " + what, method: "POST", path: k.list(ns) + "?dryRun=All&fieldValidation=Strict", body: encode(changed)})
		}
		if n++; n%2 == 0 && k.can("update") {
			out = append(out, exchange{group: "fields that change", name: k.label() + ": " + what, method: "PUT", path: k.one(ns) + "?dryRun=All", edit: func(o map[string]any) {
				for key, v := range clone(changed) {
					if key != "metadata" && key != "status" {
						o[key] = v
					}
				}
			}})
		}
	}
	base := clone(k.object)
	delete(base, "status")
	walk(base, nil, func(path []string, v any) {
		if path[0] == "apiVersion" || path[0] == "kind" {
			return
		}
		for _, other := range others(v) {
			changed := clone(base)
			if set(changed, path, other) {
				send(strings.Join(path, ".")+" "+shown(other), changed)
			}
		}
	})
	return out
}

// missing stands for a field that is taken away.
type missing struct{}

// others are values that a field might have instead of this one: none, one of another type, one of the same that is nonsense.
func others(v any) []any {
	switch v := v.(type) {
	case string:
		return []any{missing{}, 5, "", "No_Such!", strings.Repeat("x", 300)}
	case float64:
		return []any{missing{}, "x", -1, 0, 99999999999}
	case bool:
		return []any{missing{}, !v, "yes"}
	case []any:
		if len(v) == 0 {
			return []any{missing{}, "x"}
		}
		return []any{missing{}, []any{}, append(slices.Clone(v), v[0]), "x", []any{nil}}
	case map[string]any:
		more := clone(v)
		more["unknown"] = "x"
		return []any{missing{}, map[string]any{}, more, []any{1}, nil}
	}
	return nil
}

// everyField adds to a valid object each field that upstream's kind has beside those, one at a time, with a value of its type. dir
// is the folder of the module k8s.io/api, whose test data have an object of every kind with every field.
func everyField(k *kind, ns, dir string) (out []exchange, err error) {
	if !k.can("create") {
		return nil, nil
	}
	group := k.gv.Group
	if group == "" {
		group = "core"
	}
	raw, err := os.ReadFile(filepath.Join(dir, "testdata/HEAD", group+"."+k.gv.Version+"."+k.Kind+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // of another module: apiextensions, apiregistration
	} else if err != nil {
		return nil, err
	}
	var full map[string]any
	if err := json.Unmarshal(raw, &full); err != nil {
		return nil, err
	}
	delete(full, "status")
	base := clone(k.object)
	delete(base, "status")
	send := func(what string, changed map[string]any) {
		out = append(out, exchange{group: "every field", name: k.label() + ": " + what, method: "POST", path: k.list(ns) + "?dryRun=All", body: encode(changed)})
	}
	graft(base, full, nil, func(path []string, v any) {
		changed := clone(base)
		if path[0] != "metadata" && set(changed, path, v) {
			send(strings.Join(path, "."), changed)
		}
	})
	whole := clone(full)
	whole["metadata"] = clone(base["metadata"])
	send("all at once", whole)
	return out, nil
}

// graft finds what full has and base lacks, from the top, and each part of it by itself.
func graft(base, full any, path []string, found func(path []string, v any)) {
	switch full := full.(type) {
	case map[string]any:
		b, ok := base.(map[string]any)
		if !ok {
			return
		}
		for _, key := range slices.Sorted(maps.Keys(full)) {
			at := append(slices.Clone(path), key)
			if have, is := b[key]; is {
				graft(have, full[key], at, found)
				continue
			}
			found(at, full[key])
			// The whole of it may be refused for one of its parts: each by itself tells about the others.
			if parts, is := full[key].(map[string]any); is {
				for _, part := range slices.Sorted(maps.Keys(parts)) {
					found(at, map[string]any{part: parts[part]})
				}
			}
		}
	case []any:
		b, ok := base.([]any)
		if ok && len(b) > 0 && len(full) > 0 {
			graft(b[0], full[0], append(slices.Clone(path), "0"), found)
		}
	}
}

// walk visits every value below v, with its path.
func walk(v any, path []string, visit func(path []string, v any)) {
	if len(path) > 0 {
		visit(path, v)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			walk(v[key], append(slices.Clone(path), key), visit)
		}
	case []any:
		for i := range v {
			walk(v[i], append(slices.Clone(path), fmt.Sprint(i)), visit)
		}
	}
}

// set puts a value at a path, and says whether there was a place for it.
func set(v any, path []string, value any) bool {
	last := len(path) == 1
	switch v := v.(type) {
	case map[string]any:
		if !last {
			return set(v[path[0]], path[1:], value)
		}
		if _, gone := value.(missing); gone {
			delete(v, path[0])
		} else {
			v[path[0]] = value
		}
		return true
	case []any:
		var i int
		if _, err := fmt.Sscan(path[0], &i); err != nil || i >= len(v) {
			return false
		}
		if !last {
			return set(v[i], path[1:], value)
		}
		if _, gone := value.(missing); gone {
			return false // a shorter list is what its parent's other values are
		}
		v[i] = value
		return true
	}
	return false
}

// shown names a value in a report.
func shown(v any) string {
	if _, gone := v.(missing); gone {
		return "missing"
	}
	s := encode(v)
	if len(s) > 40 {
		return fmt.Sprintf("%.40s… (%d)", s, len(s))
	}
	return s
}
