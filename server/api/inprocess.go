package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
)

// ClientConfig is for programs of this process: their requests go straight to the handlers, as the given user and with its rights.
// A service account's groups need not be named. Dynamic clients must set their own content type.
func (s *Server) ClientConfig(name string, groups ...string) *rest.Config {
	return s.inProcess.config(name, groups...)
}

// inProcess is an http.RoundTripper's way to a handler that is made later.
type inProcess struct {
	handler http.Handler
}

func (p *inProcess) config(name string, groups ...string) *rest.Config {
	u := &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	if namespace, _, err := serviceaccount.SplitUsername(name); err == nil {
		u.Groups = append(u.Groups, serviceaccount.MakeGroupNames(namespace)...)
	}
	return &rest.Config{
		Host: "http://in-process", QPS: -1, Transport: &identity{p, u}, DisableCompression: true,
		WarningHandler: rest.NoWarnings{},
		UserAgent:      "bramble/" + name[strings.LastIndexByte(name, ':')+1:],
		ContentConfig:  rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON},
	}
}

// identity sends the requests of one user.
type identity struct {
	*inProcess
	user user.Info
}

func (i *identity) RoundTrip(in *http.Request) (*http.Response, error) {
	if err := in.Context().Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(request.WithUser(in.Context(), i.user))
	r := in.WithContext(ctx)
	r.URL = &url.URL{Path: in.URL.Path, RawPath: in.URL.RawPath, RawQuery: in.URL.RawQuery}
	r.RequestURI = r.URL.RequestURI()
	r.RemoteAddr = "127.0.0.1:0"
	r.Header = in.Header.Clone()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	if streams(r) {
		return i.stream(in, r, cancel)
	}
	defer cancel()
	defer r.Body.Close()
	w := &recorder{header: http.Header{}, code: http.StatusOK}
	i.handler.ServeHTTP(w, r)
	return response(in, w.code, w.header, io.NopCloser(&w.body), int64(w.body.Len())), nil
}

// streams tells requests whose answer has no end.
func streams(r *http.Request) bool {
	info, err := requestInfo.NewRequestInfo(r)
	return err == nil && longRunning(r, info)
}

// stream runs the handler beside its reader. The pipe between them has no buffer: a reader that stops stops the handler, and one
// that closes ends it. Nobody else waits for it: the response outlives this call.
func (i *identity) stream(in, r *http.Request, cancel context.CancelFunc) (*http.Response, error) {
	body, out := io.Pipe()
	w := &streamer{header: http.Header{}, out: out, started: make(chan struct{})}
	go func() {
		defer cancel()
		defer r.Body.Close()
		i.handler.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		out.Close()
	}()
	select {
	case <-w.started:
		return response(in, w.code, w.sent, &streamBody{body, cancel}, -1), nil
	case <-r.Context().Done():
		body.CloseWithError(context.Canceled)
		return nil, errors.Join(in.Context().Err(), errors.New("request was cancelled"))
	}
}

func response(in *http.Request, code int, h http.Header, body io.ReadCloser, length int64) *http.Response {
	return &http.Response{
		Status: http.StatusText(code), StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: body, ContentLength: length, Request: in,
	}
}

type streamBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *streamBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// recorder keeps a whole answer.
type recorder struct {
	header http.Header
	body   bytes.Buffer
	code   int
	wrote  bool
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(code int) {
	if !w.wrote {
		w.code, w.wrote = code, true
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// streamer passes an answer on as it is written. It flushes and notifies because upstream's wrappers look for both.
type streamer struct {
	header  http.Header
	out     *io.PipeWriter
	once    sync.Once
	started chan struct{}
	code    int
	sent    http.Header
}

func (w *streamer) Header() http.Header { return w.header }

func (w *streamer) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.started)
	})
}

func (w *streamer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.out.Write(b)
}

func (w *streamer) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify is asked for by upstream's response wrappers; the handlers use the request's context.
func (w *streamer) CloseNotify() <-chan bool { return make(chan bool) }
