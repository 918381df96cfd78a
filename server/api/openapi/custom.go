package openapi

import (
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
)

// Custom makes documents of what is not the API's own: custom resources, and what other servers have.
type Custom interface {
	// Marks gives, for each path that has a document of version 3 ("apis/example.com/v1"), a text that changes with the document.
	Marks(ctx context.Context) (map[string]string, error)
	// V3 makes the document of one of these paths.
	V3(ctx context.Context, path string) ([]byte, error)
	// V2 makes what the document of version 2 says of all of them.
	V2(ctx context.Context) (Parts, error)
}

// Parts are what is added to the document of version 2.
type Parts struct {
	Definitions map[string]json.RawMessage `json:"definitions"`
	Parameters  map[string]json.RawMessage `json:"parameters"`
	Paths       map[string]json.RawMessage `json:"paths"`
}

// NewParts has nothing in it.
func NewParts() Parts {
	return Parts{map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]json.RawMessage{}}
}

// Add takes in what others say; of what both have, theirs stays.
func (p Parts) Add(others Parts) {
	maps.Copy(p.Definitions, others.Definitions)
	maps.Copy(p.Parameters, others.Parameters)
	maps.Copy(p.Paths, others.Paths)
}

// Check tells whether these can be part of the document: what somebody else has made may be anything.
func (p Parts) Check() error {
	_, err := p.document()
	return err
}

// document is one that has nothing else in it.
func (p Parts) document() (*openapi_v2.Document, error) {
	text, err := json.Marshal(struct {
		Parts
		Swagger string            `json:"swagger"`
		Info    map[string]string `json:"info"`
	}{p, "2.0", map[string]string{"title": "Kubernetes", "version": ""}})
	if err != nil {
		return nil, err
	}
	return openapi_v2.ParseDocument(text)
}

// marked is a document of version 3 that is not embedded.
type marked struct {
	hash string
	by   Custom
}

// marks asks what there is beside the embedded documents; the marks become hashes like theirs. Of two that have the same document, the
// first has it.
func (h Handler) marks(r *http.Request) (map[string]marked, error) {
	out := map[string]marked{}
	for _, c := range h.Custom {
		marks, err := c.Marks(r.Context())
		if err != nil {
			return nil, err
		}
		for p, m := range marks {
			if _, known := out[p]; !known {
				out[p] = marked{fmt.Sprintf("%X", sha512.Sum512([]byte(contents().V2+m))), c}
			}
		}
	}
	return out, nil
}

// merged is the hash of the document of version 2 that has more in it than the embedded one.
func merged(marks map[string]marked) string {
	sum := sha512.New()
	for _, p := range slices.Sorted(maps.Keys(marks)) {
		fmt.Fprintf(sum, "%s %s\n", p, marks[p].hash)
	}
	return fmt.Sprintf("%X", sum.Sum(nil))
}

func (m marked) write(ctx context.Context, w io.Writer, path string) error {
	text, err := m.by.V3(ctx, path)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	if _, err := z.Write(text); err != nil {
		return err
	}
	return z.Close()
}

func (h Handler) writeV2(ctx context.Context, w io.Writer, kind string) error {
	parts, err := h.parts(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(parts.Parameters, func(name string, _ json.RawMessage) bool { return slices.Contains(contents().Parameters, name) })
	if kind == typeV2 {
		return appendProtobuf(w, parts)
	}
	base, err := documents.Open("documents/v2.json.gz")
	if err != nil {
		return err
	}
	defer base.Close()
	text, err := gzip.NewReader(base)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := splice(z, text, parts); err != nil {
		return err
	}
	return z.Close()
}

// parts collects what is added to the document of version 2. Of two that have the same member, the first has it.
func (h Handler) parts(ctx context.Context) (Parts, error) {
	all := NewParts()
	for _, c := range slices.Backward(h.Custom) {
		one, err := c.V2(ctx)
		if err != nil {
			return all, err
		}
		all.Add(one)
	}
	return all, nil
}

// splice copies the document and puts members in where its parts begin. None of the parts is empty, so each new member ends with a comma.
func splice(w io.Writer, base io.Reader, parts Parts) error {
	more := map[string]map[string]json.RawMessage{"definitions": parts.Definitions, "parameters": parts.Parameters, "paths": parts.Paths}
	at := int64(0)
	for _, p := range contents().Places {
		if _, err := io.CopyN(w, base, p.Offset-at); err != nil {
			return err
		}
		at = p.Offset
		for _, name := range slices.Sorted(maps.Keys(more[p.Part])) {
			if _, err := fmt.Fprintf(w, "%q:%s,", name, more[p.Part][name]); err != nil {
				return err
			}
		}
	}
	_, err := io.Copy(w, base)
	return err
}

// appendProtobuf sends the document and, behind it, one that has nothing but the new parts: messages of protobuf that follow each other
// are one message, and so are texts of gzip.
func appendProtobuf(w io.Writer, parts Parts) error {
	doc, err := parts.document()
	if err != nil {
		return err
	}
	doc.Swagger, doc.Info = "", nil
	encoded, err := proto.Marshal(doc)
	if err != nil {
		return err
	}
	if err := embedded("v2.pb.gz")(w); err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	if _, err := z.Write(encoded); err != nil {
		return err
	}
	return z.Close()
}
