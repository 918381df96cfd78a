// Command gen makes the embedded OpenAPI documents from those in the module k8s.io/kubernetes that go.mod pins. Run it by
// "go generate ./server/api/openapi" after a change of that module's version or of the API's table.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

const out = "documents"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run() error {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}} {{.Version}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return err
	}
	dir, release, _ := strings.Cut(strings.TrimSpace(string(module)), " ")
	spec := filepath.Join(dir, "api", "openapi-spec")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(out, "v3"), 0o755); err != nil {
		return err
	}
	index := struct {
		V2         string            `json:"v2"`
		V3         map[string]string `json:"v3"`
		Places     []place           `json:"places"`     // of the parts of V2
		Parameters []string          `json:"parameters"` // that V2 has
	}{V3: map[string]string{}}
	if index.V2, index.Places, index.Parameters, err = v2(filepath.Join(spec, "swagger.json"), minor(release)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(spec, "v3", "*_openapi.json"))
	if err != nil {
		return err
	}
	more, err := filepath.Glob(filepath.Join(spec, "v3", ".*_openapi.json"))
	if err != nil {
		return err
	}
	for _, f := range append(files, more...) {
		path := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(f), "_openapi.json"), "__", "/")
		if !served(path) {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		doc, err := live(text, minor(release))
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		index.V3[path] = hash(doc)
		if err := write(filepath.Join("v3", strings.ReplaceAll(path, "/", "__")+".json.gz"), doc); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "index.json"), append(text, '\n'), 0o644)
}

var (
	stable  = regexp.MustCompile(`^v\d+$`)
	skipped = map[string]bool{"internal.apiserver.k8s.io": true, "lifecycle.k8s.io": true}
)

// served tells whether the API has the path of a document, "apis/apps/v1": stable versions of the groups in its table.
func served(path string) bool {
	parts := strings.Split(path, "/")
	switch {
	case parts[0] == "logs":
		return false
	case parts[0] != "apis" || len(parts) == 1:
		return true
	case skipped[parts[1]]:
		return false
	}
	return len(parts) == 2 || stable.MatchString(parts[2])
}

// old are the edge's versions, each with the version that its resources live in.
var old = map[string]map[string][]string{
	"apps/v1beta1":                      {"apps/v1": {"deployments", "statefulsets", "controllerrevisions"}},
	"apps/v1beta2":                      {"apps/v1": {"deployments", "statefulsets", "daemonsets", "replicasets", "controllerrevisions"}},
	"autoscaling/v2beta2":               {"autoscaling/v2": {"horizontalpodautoscalers"}},
	"batch/v1beta1":                     {"batch/v1": {"cronjobs"}},
	"batch/v2alpha1":                    {"batch/v1": {"cronjobs"}},
	"discovery.k8s.io/v1beta1":          {"discovery.k8s.io/v1": {"endpointslices"}},
	"extensions/v1beta1":                {"apps/v1": {"deployments", "daemonsets", "replicasets"}, "networking.k8s.io/v1": {"ingresses", "networkpolicies"}},
	"networking.k8s.io/v1beta1":         {"networking.k8s.io/v1": {"ingresses", "ingressclasses"}},
	"node.k8s.io/v1beta1":               {"node.k8s.io/v1": {"runtimeclasses"}},
	"policy/v1beta1":                    {"policy/v1": {"poddisruptionbudgets"}},
	"rbac.authorization.k8s.io/v1beta1": {"rbac.authorization.k8s.io/v1": {"roles", "rolebindings", "clusterroles", "clusterrolebindings"}},
	"scheduling.k8s.io/v1beta1":         {"scheduling.k8s.io/v1": {"priorityclasses"}},
	"storage.k8s.io/v1beta1":            {"storage.k8s.io/v1": {"storageclasses", "csidrivers"}},
}

// dryRuns says of the old versions that their objects can be patched as a trial, and nothing else: kubectl before 1.27 has no other
// way to learn that, and does neither `diff` nor `--dry-run=server` without. They have no definitions, by which it would refuse the
// fields that servers of their time dropped.
func dryRuns(paths map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	type kind struct {
		Group   string `json:"group"`
		Version string `json:"version"`
		Kind    string `json:"kind"`
	}
	out := map[string]json.RawMessage{}
	for gv, from := range old {
		for present, resources := range from {
			for _, r := range resources {
				var item struct {
					Patch struct {
						Kind kind `json:"x-kubernetes-group-version-kind"`
					} `json:"patch"`
				}
				suffix, scope := "/namespaces/{namespace}/"+r+"/{name}", "Namespaced"
				if paths["/apis/"+present+suffix] == nil {
					suffix, scope = "/"+r+"/{name}", ""
				}
				if err := json.Unmarshal(paths["/apis/"+present+suffix], &item); err != nil {
					return nil, fmt.Errorf("%s of %s: %w", r, present, err)
				}
				k := item.Patch.Kind
				k.Group, k.Version, _ = strings.Cut(gv, "/")
				out["/apis/"+gv+suffix], _ = json.Marshal(map[string]any{"patch": map[string]any{
					"operationId": "patch" + camel(strings.TrimSuffix(k.Group, ".k8s.io")) + capital(k.Version) + scope + k.Kind, "x-kubernetes-group-version-kind": k,
					"parameters": []any{map[string]any{"in": "query", "name": "dryRun", "type": "string", "uniqueItems": true}},
					"responses":  map[string]any{"200": map[string]any{"description": "OK"}},
				}})
			}
		}
	}
	return out, nil
}

// camel is "RbacAuthorization" of "rbac.authorization".
func camel(group string) (name string) {
	for word := range strings.SplitSeq(group, ".") {
		name += capital(word)
	}
	return name
}

func capital(word string) string { return strings.ToUpper(word[:1]) + word[1:] }

// place is where the members of a part of the document of version 2 begin.
type place struct {
	Part   string `json:"part"`
	Offset int    `json:"offset"`
}

// v2 keeps the paths that are served and the definitions that they lead to.
func v2(file, version string) (string, []place, []string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", nil, nil, err
	}
	if text, err = live(text, version); err != nil {
		return "", nil, nil, err
	}
	var doc, paths, definitions, parameters map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		return "", nil, nil, err
	}
	for part, into := range map[string]*map[string]json.RawMessage{"paths": &paths, "definitions": &definitions, "parameters": &parameters} {
		if err := json.Unmarshal(doc[part], into); err != nil {
			return "", nil, nil, fmt.Errorf("%s: %w", part, err)
		}
	}
	kept, used := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	for p, v := range paths {
		if parts := strings.Split(strings.Trim(p, "/"), "/"); served(strings.Join(parts[:min(3, len(parts))], "/")) {
			kept[p] = v
			follow(v, definitions, used)
		}
	}
	for _, v := range parameters {
		follow(v, definitions, used)
	}
	trials, err := dryRuns(paths)
	if err != nil {
		return "", nil, nil, err
	}
	maps.Copy(kept, trials)
	doc["paths"] = object(kept)
	doc["definitions"] = object(used)
	doc["parameters"] = object(parameters)
	out := object(doc)
	var places []place
	for _, part := range []string{"definitions", "parameters", "paths"} { // in the order of the text
		prefix, after, ok := bytes.Cut(out, fmt.Appendf(nil, "%q:%s", part, doc[part][:min(len(doc[part]), 100)]))
		if !ok || bytes.HasPrefix(after, []byte("{}")) {
			return "", nil, nil, fmt.Errorf("the part %s cannot be found again", part)
		}
		places = append(places, place{part, len(prefix) + len(part) + len(`"":{`)})
	}
	parsed, err := openapi_v2.ParseDocument(out)
	if err != nil {
		return "", nil, nil, err
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(parsed)
	if err != nil {
		return "", nil, nil, err
	}
	if err := write("v2.pb.gz", encoded); err != nil {
		return "", nil, nil, err
	}
	return hash(out), places, slices.Sorted(maps.Keys(parameters)), write("v2.json.gz", out)
}

// object writes a map's members in the order of their names.
func object(members map[string]json.RawMessage) []byte {
	out, err := json.Marshal(members)
	if err != nil {
		panic(err) // each was read from JSON
	}
	return out
}

var reference = regexp.MustCompile(`"#/definitions/([^"]+)"`)

// follow marks the definitions that a piece of JSON refers to, and theirs.
func follow(piece json.RawMessage, definitions, seen map[string]json.RawMessage) {
	for _, m := range reference.FindAllSubmatch(piece, -1) {
		name := string(m[1])
		if _, ok := seen[name]; ok {
			continue
		}
		seen[name] = definitions[name]
		follow(definitions[name], definitions, seen)
	}
}

func hash(doc []byte) string { return fmt.Sprintf("%X", sha512.Sum512(doc)) }

func write(name string, doc []byte) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(doc); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, name), b.Bytes(), 0o644)
}
