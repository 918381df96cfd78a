package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"reflect"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	cbor "k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// differences names each place where two answers differ, in words: nothing where they are equal.
func differences(got, want answer) []string {
	if got.code != want.code {
		return []string{fmt.Sprintf("code %d, upstream %d: %.300s; upstream: %.300s", got.code, want.code, got.body, want.body)}
	}
	var out []string
	for _, h := range []string{"Content-Type", "Warning", "Cache-Control", "Allow", "Retry-After", "Location"} {
		if g, w := plain(strings.Join(got.header.Values(h), "; ")), plain(strings.Join(want.header.Values(h), "; ")); g != w {
			out = append(out, fmt.Sprintf("header %s is %q, upstream's %q", h, g, w))
		}
	}
	return append(out, compare("", parse(got), parse(want))...)
}

// compare names each place where two JSON values differ.
func compare(path string, got, want any) (out []string) {
	g, isMap := got.(map[string]any)
	w, both := want.(map[string]any)
	if isMap && both {
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if _, ok := g[k]; !ok {
				out = append(out, fmt.Sprintf("%s.%s is missing: %.200v", path, k, w[k]))
			}
		}
		for _, k := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[k]; !ok {
				out = append(out, fmt.Sprintf("%s.%s is not upstream's: %.200v", path, k, g[k]))
				continue
			}
			out = append(out, compare(path+"."+k, g[k], w[k])...)
		}
		return out
	}
	gl, isList := got.([]any)
	wl, bothLists := want.([]any)
	if isList && bothLists && len(gl) != len(wl) {
		if g, w := byName(gl), byName(wl); g != nil && w != nil {
			return compare(path, g, w)
		}
	}
	if isList && bothLists && len(gl) == len(wl) {
		for i := range gl {
			out = append(out, compare(fmt.Sprintf("%s[%d]", path, i), gl[i], wl[i])...)
		}
		return out
	}
	if !reflect.DeepEqual(got, want) {
		out = append(out, fmt.Sprintf("%s: %.3000v; upstream: %.3000v", path, got, want))
	}
	return out
}

// byName makes of a list of objects a map of them; nil if it has anything else.
func byName(list []any) map[string]any {
	out := map[string]any{}
	for _, e := range list {
		o, _ := e.(map[string]any)
		meta, _ := o["metadata"].(map[string]any)
		name := text(meta["name"])
		if name == "" {
			name = text(o["name"]) // of a group
		}
		if name == "" || out[name] != nil {
			return nil
		}
		out[name] = e
	}
	return out
}

// parse reads an answer in whichever encoding it came, a stream as the list of its values, without what is different in every
// cluster: revisions, identities, times, addresses and ports that were given out.
func parse(a answer) any {
	kind, parameters, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	var values []any
	switch {
	case kind == "application/vnd.kubernetes.protobuf" && parameters["stream"] == "watch":
		for b := a.body; len(b) >= 4; {
			n := int(binary.BigEndian.Uint32(b))
			if n > len(b)-4 {
				return fmt.Sprintf("a frame of %d bytes of which %d came", n, len(b)-4)
			}
			var e metav1.WatchEvent
			if err := e.Unmarshal(b[4 : 4+n]); err != nil {
				return err.Error()
			}
			values, b = append(values, map[string]any{"type": e.Type, "object": fromProtobuf(e.Object.Raw)}), b[4+n:]
		}
		return normal("", slices.DeleteFunc(values, timedBookmark))
	case kind == "application/vnd.kubernetes.protobuf":
		return normal("", fromProtobuf(a.body))
	case kind == "application/cbor":
		var v any
		if err := cbor.Unmarshal(a.body, &v); err != nil {
			return err.Error()
		}
		return normal("", clone(v))
	case kind == "application/cbor-seq":
		return fmt.Sprintf("%d bytes of a sequence", min(len(a.body), 1))
	case kind == "application/yaml":
		var v any
		if err := yaml.Unmarshal(a.body, &v); err != nil {
			return err.Error()
		}
		return normal("", v)
	}
	for d := json.NewDecoder(bytes.NewReader(a.body)); ; {
		var v any
		if err := d.Decode(&v); err == io.EOF {
			break
		} else if err != nil {
			return plain(string(a.body))
		}
		values = append(values, v)
	}
	if len(values) == 1 {
		return normal("", values[0])
	}
	return normal("", slices.DeleteFunc(values, timedBookmark))
}

// timedBookmark tells an event of a watch that comes with time, and not with what happens.
func timedBookmark(event any) bool {
	e, _ := event.(map[string]any)
	return e["type"] == "BOOKMARK" && !strings.Contains(encode(e), metav1.InitialEventsAnnotationKey)
}

// fromProtobuf reads an object of a built-in kind.
func fromProtobuf(b []byte) any {
	if !bytes.HasPrefix(b, []byte("k8s\x00")) {
		return fmt.Sprintf("no protobuf: %.100q", b)
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, nil, nil)
	if err != nil {
		return err.Error()
	}
	v, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return err.Error()
	}
	return clone(any(v))
}

// own are the fields whose values are each cluster's own.
var own = map[string]bool{
	"uid": true, "resourceVersion": true, "creationTimestamp": true, "deletionTimestamp": true, "time": true, "continue": true,
	"clusterIP": true, "clusterIPs": true, "nodePort": true, "healthCheckNodePort": true, "token": true, "expirationTimestamp": true,
	"renewTime": true, "lastTransitionTime": true, "startTime": true, "hash": true, "caBundle": true, "requestReceivedTimestamp": true,
	"authentication.kubernetes.io/credential-id": true, "serverAddress": true,
}

func normal(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v["kty"] != nil { // a key that verifies tokens
			return "its own key"
		}
		for k := range v {
			v[k] = normal(k, v[k])
		}
		return v
	case []any:
		if own[key] {
			return fmt.Sprintf("%d of them", len(v))
		}
		for i := range v {
			v[i] = normal("", v[i])
		}
		switch key {
		case "causes", "resourceRules", "nonResourceRules", "nonResourceURLs", "managedFields": // upstream walks maps for some; the last are in the order of their times, and then of their managers' names
			slices.SortFunc(v, func(a, b any) int { return strings.Compare(encode(a), encode(b)) })
		}
		return v
	case string:
		switch {
		case own[key] && v != "" && v != "None":
			return "its own"
		case key == "message":
			return sorted(plain(v))
		case key == "manager" && v == "bramble": // who writes what the servers write by themselves
			return "kube-apiserver"
		}
		return plain(v)
	case float64:
		if own[key] && v != 0 {
			return "its own"
		}
		return v
	}
	return v
}

var (
	moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	uids    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	ages    = regexp.MustCompile(`^\d+(s|ms|m|m\d+s)$`)
	given   = regexp.MustCompile(`\b10\.96\.\d+\.\d+\b`)
	ports   = regexp.MustCompile(`\b3[0-2]\d{3}/(TCP|UDP)\b`)
	names   = regexp.MustCompile(`\b(gen-|kube-api-access-)[a-z0-9]{5}\b`)
	current = regexp.MustCompile(`current: \d+`)
	version = regexp.MustCompile(`resourceVersion(\W{1,6})\d+`)
	port    = regexp.MustCompile(`(?i)(nodePort\W{1,6})\d+`)
	record  = regexp.MustCompile(`(in record \(|in object meta: )\d+`)
	allowed = regexp.MustCompile(`RBAC: allowed by .*`) // by one of several bindings
)

// plain takes out of a text what is each cluster's own.
func plain(s string) string {
	s = moments.ReplaceAllString(s, "MOMENT")
	s = uids.ReplaceAllString(s, "UID")
	s = given.ReplaceAllString(s, "ADDRESS")
	s = ports.ReplaceAllString(s, "PORT/$1")
	s = names.ReplaceAllString(s, "${1}NAME")
	s = current.ReplaceAllString(s, "current: REVISION")
	s = version.ReplaceAllString(s, "resourceVersion${1}REVISION")
	s = port.ReplaceAllString(s, "${1}PORT")
	s = record.ReplaceAllString(s, "${1}REVISION")
	s = allowed.ReplaceAllString(s, "RBAC: allowed by BINDING")
	return ages.ReplaceAllString(s, "AGE")
}

// sorted puts the errors of a message in an order: upstream walks maps for some of them.
func sorted(message string) string {
	head, list, found := strings.Cut(message, "[")
	if !found || !strings.HasSuffix(list, "]") {
		return message
	}
	parts := strings.Split(strings.TrimSuffix(list, "]"), ", ")
	slices.Sort(parts)
	return head + "[" + strings.Join(parts, ", ") + "]"
}
