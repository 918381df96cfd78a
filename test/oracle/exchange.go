package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// exchange is one request, as it is sent to both servers.
type exchange struct {
	group, name  string // of the report
	method, path string
	body         string
	headers      []string             // "Accept: text/plain"
	as           string               // the user who asks; empty: an administrator
	alone        bool                 // nothing but the headers says who asks
	edit         func(map[string]any) // instead of a body: the object at the path, as each server has it, changed
	of           string               // where $VERSION, $UID and $CONTINUE in path and body come from
	meanwhile    []exchange           // of a watch: what is asked for while it is open
	once         bool                 // asked again it would be answered otherwise
	setup        bool                 // what others build on; not compared
	must         int                  // the code that upstream must answer, or objects.yaml is wrong; 0: any
	patience     time.Duration        // how long to ask until both say the same, what they must, and of the newest
	pause        time.Duration        // how long to wait before
}

// answer is what a server said.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// behind tells whether the object's status is of an older specification: its server has not come to write it yet.
func (a answer) behind() bool {
	var o struct {
		Metadata struct{ Generation int64 }
		Status   struct{ ObservedGeneration *int64 }
	}
	return json.Unmarshal(a.body, &o) == nil && o.Status.ObservedGeneration != nil && *o.Status.ObservedGeneration < o.Metadata.Generation
}

// side is one of the two servers.
type side struct {
	url          string
	token        string
	client, bare *http.Client // bare: without a certificate
}

func newSide(url, token string, tlsConfig *tls.Config) *side {
	anonymous := tlsConfig.Clone()
	anonymous.Certificates = nil
	return &side{url: url, token: token, client: newClient(tlsConfig), bare: newClient(anonymous)}
}

func newClient(tlsConfig *tls.Config) *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 8, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ask sends one request. An answer that could not be had is an error; one that refuses is none.
func (s *side) ask(ctx context.Context, e exchange) (answer, error) {
	path, body := e.path, e.body
	if e.of != "" || e.edit != nil {
		object, err := s.object(ctx, e)
		if err != nil {
			return answer{}, err
		}
		if e.edit != nil {
			e.edit(object)
			text, err := json.Marshal(object)
			if err != nil {
				return answer{}, err
			}
			body = string(text)
		}
		meta, _ := object["metadata"].(map[string]any)
		known := strings.NewReplacer("$VERSION", text(meta["resourceVersion"]), "$UID", text(meta["uid"]), "$CONTINUE", text(meta["continue"]))
		path, body = known.Replace(path), known.Replace(body)
	}
	return s.send(ctx, e, path, body)
}

// object is what lies at the path that the request depends on; empty where there is nothing.
func (s *side) object(ctx context.Context, e exchange) (map[string]any, error) {
	path := e.of
	if path == "" {
		path, _, _ = strings.Cut(e.path, "?")
	}
	a, err := s.send(ctx, exchange{method: "GET"}, path, "")
	object := map[string]any{}
	if err != nil || a.code != 200 {
		return object, err
	}
	return object, json.Unmarshal(a.body, &object)
}

func (s *side) send(ctx context.Context, e exchange, path, body string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, e.method, s.url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	// As it is, and not as net/url would write it: two slashes and dots are part of what is asked.
	r.URL.Opaque = path
	r.Header.Set("User-Agent", "oracle")
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	if e.as == "" {
		r.Header.Set("Impersonate-User", "administrator")
		r.Header.Set("Impersonate-Group", "system:masters")
	} else {
		r.Header.Set("Impersonate-User", e.as)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range e.headers {
		k, v, _ := strings.Cut(h, ": ")
		if v == "" {
			r.Header.Del(k)
		} else {
			r.Header.Set(k, v)
		}
	}
	client := s.client
	if e.alone {
		client = s.bare
	}
	res, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, text}, err
}

// watch sends a request whose answer is a stream, asks for what happens meanwhile, and gives back what came.
func (s *side) watch(ctx context.Context, e exchange) (answer, error) {
	type result struct {
		a   answer
		err error
	}
	done := make(chan result, 1)
	go func() {
		a, err := s.ask(ctx, e)
		done <- result{a, err}
	}()
	time.Sleep(300 * time.Millisecond) // until it is surely open: the answer's head comes with its first event
	for _, m := range e.meanwhile {
		a, err := s.ask(ctx, m)
		if err == nil && a.code >= 300 {
			err = fmt.Errorf("meanwhile, %s %s: %d %.200s", m.method, m.path, a.code, a.body)
		}
		if err != nil {
			return answer{}, err
		}
	}
	r := <-done
	return r.a, r.err
}

// object reads YAML.
func object(manifest string) (map[string]any, error) {
	var o map[string]any
	err := yaml.Unmarshal([]byte(manifest), &o)
	return o, err
}

func text(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

// encode writes JSON as the tests of a server do: without escapes that hide what is sent.
func encode(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // what was read as JSON
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// clone copies a tree of JSON.
func clone[T any](v T) T {
	var out T
	if err := json.Unmarshal([]byte(encode(v)), &out); err != nil {
		panic(err) // what was written just now
	}
	return out
}
