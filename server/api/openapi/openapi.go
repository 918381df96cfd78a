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
	V2 string            `json:"v2"`
	V3 map[string]string `json:"v3"` // by path, "apis/apps/v1"
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

// Paths lists the documents of version 3, such as "api/v1" and "apis/apps/v1".
func Paths() []string {
	var out []string
	for p := range contents().V3 {
		out = append(out, p)
	}
	return out
}

// V2 serves the one document of version 2, as JSON or in the protobuf form that kubectl before 1.27 asks for.
func V2(w http.ResponseWriter, r *http.Request) {
	kind := accepted(r.Header.Get("Accept"), typeJSON, typeV2)
	file := map[string]string{typeJSON: "v2.json.gz", typeV2: "v2.pb.gz"}[kind]
	if file == "" {
		http.Error(w, "not acceptable: this document comes as "+typeJSON+" and "+typeV2, http.StatusNotAcceptable)
		return
	}
	send(w, r, file, kind, contents().V2)
}

// V3 serves the index of the documents of version 3 and, below it, each of them.
func V3(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
	if path == "" {
		writeIndex(w)
		return
	}
	hash, ok := contents().V3[path]
	if !ok {
		http.NotFound(w, r)
		return
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
		w.Header().Set("Cache-Control", "public")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	send(w, r, "v3/"+fileOf(path), typeJSON, hash)
}

func writeIndex(w http.ResponseWriter) {
	type item struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]item{}
	for p, h := range contents().V3 {
		paths[p] = item{address(p, h)}
	}
	w.Header().Set("Content-Type", typeJSON)
	json.NewEncoder(w).Encode(map[string]any{"paths": paths})
}

func address(path, hash string) string { return "/openapi/v3/" + path + "?hash=" + hash }

func fileOf(path string) string { return strings.ReplaceAll(path, "/", "__") + ".json.gz" }

func send(w http.ResponseWriter, r *http.Request, file, kind, hash string) {
	h := w.Header()
	h.Set("Etag", `"`+hash+`"`)
	h.Add("Vary", "Accept")
	h.Set("Content-Type", kind)
	if match := r.Header.Get("If-None-Match"); match != "" && strings.Contains(match, hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	// Reading an embedded file whole copies nothing when it is opened.
	f, err := documents.Open("documents/" + file)
	if err != nil {
		http.Error(w, "openapi: "+err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	h.Add("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		io.Copy(w, f)
		return
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		http.Error(w, "openapi: "+err.Error(), http.StatusInternalServerError)
		return
	}
	io.Copy(w, z)
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
