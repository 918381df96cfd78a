package openapi

import (
	"compress/gzip"
	"embed"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"
)

//go:embed all:documents
var documents embed.FS

const (
	typeJSON = "application/json"
	typeV2   = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
)

// index is what the generator notes about the documents: their SHA-512 in hexadecimal capitals, as upstream shows it.
type index struct {
	V2         string            `json:"v2"`
	V3         map[string]string `json:"v3"` // by path, "apis/apps/v1"
	Places     []place           `json:"places"`
	Parameters []string          `json:"parameters"` // that the document of version 2 has
}

// place is where the members of a part of the document of version 2 begin.
type place struct {
	Part   string `json:"part"`
	Offset int64  `json:"offset"`
}

var contents = sync.OnceValue(func() index {
	var i index
	data, err := documents.ReadFile("documents/index.json")
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err != nil {
		panic("openapi: the embedded documents lack their index: run go generate ./server/api/openapi: " + err.Error())
	}
	return i
})

// Handler serves the embedded documents and those of others.
type Handler struct {
	Custom []Custom
}

// V2 serves the one document of version 2, as JSON or in the protobuf form that kubectl before 1.27 asks for.
func (h Handler) V2(w http.ResponseWriter, r *http.Request) {
	kind := accepted(r.Header.Get("Accept"), typeJSON, typeV2)
	file := map[string]string{typeJSON: "v2.json.gz", typeV2: "v2.pb.gz"}[kind]
	if file == "" {
		http.Error(w, "not acceptable: this document comes as "+typeJSON+" and "+typeV2, http.StatusNotAcceptable)
		return
	}
	marks, err := h.marks(r)
	if err != nil {
		refuse(w, err)
		return
	}
	if len(marks) == 0 {
		send(w, r, kind, contents().V2, embedded(file))
		return
	}
	send(w, r, kind, merged(marks), func(w io.Writer) error { return h.writeV2(r.Context(), w, kind) })
}

// V3 serves the index of the documents of version 3 and, below it, each of them.
func (h Handler) V3(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
	marks, err := h.marks(r)
	if err != nil {
		refuse(w, err)
		return
	}
	if path == "" {
		writeIndex(w, marks)
		return
	}
	hash, ok := contents().V3[path]
	body := embedded("v3/" + fileOf(path))
	if !ok {
		m, ok := marks[path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		hash = m.hash
		body = func(w io.Writer) error { return m.write(r.Context(), w, path) }
	}
	if accepted(r.Header.Get("Accept"), typeJSON) == "" {
		http.Error(w, "not acceptable: this document comes as "+typeJSON, http.StatusNotAcceptable)
		return
	}
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			http.Redirect(w, r, address(path, hash), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	send(w, r, typeJSON, hash, body)
}

func writeIndex(w http.ResponseWriter, marks map[string]marked) {
	type item struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]item{}
	for p, m := range marks {
		paths[p] = item{address(p, m.hash)}
	}
	for p, h := range contents().V3 {
		paths[p] = item{address(p, h)}
	}
	w.Header().Set("Content-Type", typeJSON)
	json.NewEncoder(w).Encode(map[string]any{"paths": paths})
}

func refuse(w http.ResponseWriter, err error) {
	http.Error(w, "openapi: "+err.Error(), http.StatusServiceUnavailable)
}

func address(path, hash string) string { return "/openapi/v3/" + path + "?hash=" + hash }

func fileOf(path string) string { return strings.ReplaceAll(path, "/", "__") + ".json.gz" }

// embedded gives the compressed text of a document in this program.
func embedded(file string) func(io.Writer) error {
	return func(w io.Writer) error {
		// Reading an embedded file whole copies nothing when it is opened.
		f, err := documents.Open("documents/" + file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}

// send answers with a document whose compressed text body writes, unless the client has it already.
func send(w http.ResponseWriter, r *http.Request, kind, hash string, body func(io.Writer) error) {
	h := w.Header()
	h.Set("Etag", `"`+hash+`"`)
	h.Add("Vary", "Accept")
	h.Set("Content-Type", kind)
	if match := r.Header.Get("If-None-Match"); match != "" && strings.Contains(match, hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Add("Vary", "Accept-Encoding")
	var err error
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		err = body(w)
	} else {
		err = unzip(w, body)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the answer has begun: all that can be done is to let the client see that it broke off
	}
}

// unzip writes what a compressed text says.
func unzip(w io.Writer, body func(io.Writer) error) error {
	pipe, in := io.Pipe()
	var writing sync.WaitGroup
	defer writing.Wait()
	defer pipe.Close() // what is still being written fails
	writing.Go(func() { in.CloseWithError(body(in)) })
	z, err := gzip.NewReader(pipe)
	if err == nil {
		_, err = io.Copy(w, z)
	}
	return err
}

// accepted picks the first of the types in an Accept header that is offered; none given means the first offer.
func accepted(header string, offers ...string) string {
	if strings.TrimSpace(header) == "" {
		return offers[0]
	}
	for _, part := range strings.Split(header, ",") {
		// The @ of the protobuf type's old spelling is no legal character in a media type.
		t, _, err := mime.ParseMediaType(strings.Replace(part, "spec.v2@v1.0", "spec.v2.v1.0", 1))
		if err != nil {
			continue
		}
		for _, o := range offers {
			if t == o || t == "*/*" || t == "application/*" && strings.HasPrefix(o, "application/") {
				return o
			}
		}
	}
	return ""
}
