package api

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestStop: a request that has begun when the server stops is answered, and a watch ends at once.
func TestStop(t *testing.T) {
	c := start(t, t.TempDir())
	w := must(c.client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{}))(t)
	defer w.Stop()
	config := rest.CopyConfig(c.config)
	config.NextProtos = []string{"http/1.1"}
	tls := must(rest.TLSConfigFor(config))(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tls, ExpectContinueTimeout: time.Minute}}

	body, rest := io.Pipe()
	begun := make(chan struct{})
	trace := &httptrace.ClientTrace{Got100Continue: func() { close(begun) }} // its handler reads
	r := must(http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodPost, c.url+"/api/v1/namespaces/default/configmaps", body))(t)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Expect", "100-continue")
	answered := make(chan string, 1)
	go func() {
		a, err := client.Do(r)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer a.Body.Close()
		said, _ := io.ReadAll(a.Body)
		answered <- a.Status + " " + string(said)
	}()
	<-begun

	stop := c.stop
	c.stop = nil
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()

	for limit := time.After(shutdownGrace / 2); ; {
		select {
		case _, open := <-w.ResultChan():
			if open {
				continue
			}
		case <-limit:
			t.Error("the watch goes on while the server stops")
		}
		break
	}
	io.Copy(rest, strings.NewReader(`{"metadata":{"name":"late"}}`))
	rest.Close()
	if said := <-answered; !strings.HasPrefix(said, "201 ") {
		t.Errorf("the request that had begun: %s", said)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
