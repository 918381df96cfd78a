package main

import (
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// sample: one in so many is asked by the test.
const sample = 50

// Two servers of one kind answer equally: what differs between them is what normal should have taken out, or what depends on
// more than what was asked.
func TestEqualToItself(t *testing.T) {
	if testing.Short() {
		t.Skip("asks some thousand things of two servers")
	}
	var sides [2]*side
	for i := range sides {
		s, stop, err := serve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		sides[i] = s
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	corpus, _, err := requests(t.Context(), sides[1], "oracle-1", strings.TrimSpace(string(dir)))
	if err != nil {
		t.Fatal(err)
	}
	if len(corpus) < 3000 {
		t.Errorf("only %d requests are made", len(corpus))
	}
	// Of what changes nothing, some: the whole takes minutes.
	n := 0
	some := slices.DeleteFunc(corpus, func(e exchange) bool { n++; return (!e.once || len(e.meanwhile) > 0) && !e.setup && n%sample != 0 })
	for e, a := range askAll(t.Context(), sides[0], sides[1], some) {
		if e.must != 0 && a.want.code != e.must {
			t.Errorf("%s: %d %.500s", e.name, a.want.code, a.want.body)
		}
		if len(a.differ) > 0 && !strings.Contains(e.name, "services/kubernetes") { // whose port is another one
			t.Errorf("%s: %s\n  %s %s %.200s\n    %s", e.group, e.name, e.method, e.path, e.body, strings.Join(a.differ, "\n    "))
		}
	}
}

func TestDifferences(t *testing.T) {
	said := func(code int, kind, body string) answer {
		return answer{code, http.Header{"Content-Type": {kind}}, []byte(body)}
	}
	const js = "application/json"
	for _, tt := range []struct {
		name      string
		got, want answer
		differ    string // empty: they are equal
	}{
		{"identities", said(200, js, `{"metadata":{"uid":"a","resourceVersion":"1"}}`), said(200, js, `{"metadata":{"uid":"b","resourceVersion":"2"}}`), ""},
		{"times in words", said(200, js, `{"note":"at 2026-01-02T03:04:05Z"}`), said(200, js, `{"note":"at 2027-01-02T03:04:05Z"}`), ""},
		{"errors in another order", said(422, js, `{"message":"x is invalid: [b: no, a: no]"}`), said(422, js, `{"message":"x is invalid: [a: no, b: no]"}`), ""},
		{"a stream", said(200, js, `{"type":"ADDED"}`+"\n"+`{"type":"DELETED"}`), said(200, js, `{"type":"ADDED"}`), ": [map[type:ADDED] map[type:DELETED]]"},
		{"codes", said(404, js, `{}`), said(200, js, `{}`), "code 404, upstream 200"},
		{"a field too many", said(200, js, `{"a":{"b":1}}`), said(200, js, `{"a":{}}`), ".a.b is not upstream's"},
		{"a field too few", said(200, js, `{"a":{}}`), said(200, js, `{"a":{"b":1}}`), ".a.b is missing"},
		{"in a list", said(200, js, `{"a":[1,{"b":2}]}`), said(200, js, `{"a":[1,{"b":3}]}`), ".a[1].b: 2; upstream: 3"},
		{"an address that was given and none", said(200, js, `{"clusterIP":"None"}`), said(200, js, `{"clusterIP":"10.96.1.1"}`), ".clusterIP: None"},
		{"types", said(200, js, `{}`), said(200, "text/plain", `{}`), "header Content-Type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(differences(tt.got, tt.want), "; ")
			if (got == "") != (tt.differ == "") || !strings.Contains(got, tt.differ) {
				t.Errorf("%q, want %q", got, tt.differ)
			}
		})
	}
}

func TestFieldByField(t *testing.T) {
	k := &kind{object: map[string]any{"apiVersion": "v1", "kind": "Thing", "metadata": map[string]any{"name": "o"}, "spec": map[string]any{"list": []any{map[string]any{"port": 80.0}}}}}
	k.Verbs, k.Name, k.gv.Version = []string{"create", "update"}, "things", "v1"
	all := map[string]bool{}
	for _, e := range fieldByField(k, "ns") {
		all[e.name+" "+e.body] = true
	}
	for _, want := range []string{
		`things: spec missing {"apiVersion":"v1","kind":"Thing","metadata":{"name":"o"}}`,
		`things: spec.list.0.port -1 {"apiVersion":"v1","kind":"Thing","metadata":{"name":"o"},"spec":{"list":[{"port":-1}]}}`,
		`things: spec.list [] {"apiVersion":"v1","kind":"Thing","metadata":{"name":"o"},"spec":{"list":[]}}`,
		`things: metadata.name "" {"apiVersion":"v1","kind":"Thing","metadata":{"name":""},"spec":{"list":[{"port":80}]}}`,
	} {
		if !all[want] {
			t.Errorf("no %s", want)
		}
	}
}
