package api

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// Upstream's hundreds of series are not registered, and so cost nothing: a histogram a verb and resource is megabytes that a board
// would carry for nobody. What is counted is what tells a busy server from an idle one.
var requests = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "apiserver_request_total", Help: "Requests from the network by verb and status code.",
}, []string{"verb", "code"})

// metrics serves what is counted. Nothing is made for it before somebody asks.
func metrics(more ...prometheus.Collector) http.HandlerFunc {
	handler := sync.OnceValue(func() http.Handler {
		r := prometheus.NewRegistry()
		r.MustRegister(requests, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		r.MustRegister(more...)
		return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	})
	return func(w http.ResponseWriter, r *http.Request) { handler().ServeHTTP(w, r) }
}

// counted counts requests.
func counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &codeWriter{ResponseWriter: w, code: http.StatusOK}
		defer func() {
			verb := "other"
			if info, ok := request.RequestInfoFrom(r.Context()); ok && info.IsResourceRequest {
				verb = info.Verb
			}
			requests.WithLabelValues(verb, strconv.Itoa(c.code)).Inc()
		}()
		h.ServeHTTP(responsewriter.WrapForHTTP1Or2(c), r)
	})
}

type codeWriter struct {
	http.ResponseWriter
	code int
}

func (c *codeWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *codeWriter) WriteHeader(code int) {
	c.code = code
	c.ResponseWriter.WriteHeader(code)
}
