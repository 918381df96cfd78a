package main

import (
	"encoding/json"
	"strings"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/pkg/generated/openapi"
)

// Upstream writes the documents in its module with every feature on but the one that names the values of enumerations; a server
// with its defaults names those, and has not the features that are off by default, of which one shows: CBOR.

// definitions are those of upstream's types by name, with their enumerations.
var definitions = openapi.GetOpenAPIDefinitions(func(name string) spec.Ref { return spec.MustCreateRef("#/definitions/" + name) })

// live makes of one of the module's documents what a server of a version says.
func live(text []byte, version string) ([]byte, error) {
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	doc["info"].(map[string]any)["version"] = version
	withoutCBOR(doc)
	schemas, _ := doc["definitions"].(map[string]any)
	if components, ok := doc["components"].(map[string]any); ok {
		schemas, _ = components["schemas"].(map[string]any)
	}
	for name, schema := range schemas {
		if d, ok := definitions[name]; ok {
			enumerate(schema.(map[string]any), d)
		}
	}
	return json.Marshal(doc)
}

// minor is "1.37" of "v1.37.2".
func minor(release string) string {
	parts := strings.Split(strings.TrimPrefix(release, "v"), ".")
	return strings.Join(parts[:2], ".")
}

// withoutCBOR takes its types of content out of all that lists or describes some.
func withoutCBOR(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			if isCBOR(k) {
				delete(v, k)
			} else {
				v[k] = withoutCBOR(v[k])
			}
		}
		return v
	case []any:
		kept := v[:0]
		for _, e := range v {
			if s, is := e.(string); !is || !isCBOR(s) {
				kept = append(kept, withoutCBOR(e))
			}
		}
		return kept
	}
	return v
}

func isCBOR(s string) bool {
	return s == "application/cbor" || s == "application/cbor-seq" || s == "application/apply-patch+cbor"
}

// enumerate names the values of a kind's fields, and describes them.
func enumerate(schema map[string]any, d common.OpenAPIDefinition) {
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		field, described := p.(map[string]any), d.Schema.Properties[name]
		switch {
		case len(described.Enum) > 0:
			field["enum"], field["description"] = described.Enum, described.Description
		case described.Items != nil && described.Items.Schema != nil && len(described.Items.Schema.Enum) > 0:
			field["items"].(map[string]any)["enum"], field["description"] = described.Items.Schema.Enum, described.Description
		case described.AdditionalProperties != nil && described.AdditionalProperties.Schema != nil && len(described.AdditionalProperties.Schema.Enum) > 0:
			field["additionalProperties"].(map[string]any)["enum"], field["description"] = described.AdditionalProperties.Schema.Enum, described.Description
		}
	}
}
