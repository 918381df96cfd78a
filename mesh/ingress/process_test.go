package ingress

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// TestNobodyIsAnsweredBeforeTheFirstTable: who comes to a process that has just been started waits for a right answer.
func TestNobodyIsAnsweredBeforeTheFirstTable(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	log := slog.New(slog.DiscardHandler)
	p := &process{log: log, proxy: newProxy(log), told: make(chan struct{}), ended: make(chan struct{}), ports: []int{0, 0}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	p.listen(&serving, l, false, 80)
	answered := make(chan int, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String() + "/")
		if err != nil {
			answered <- -1
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	select {
	case code := <-answered:
		t.Errorf("%d before it was told anything", code)
	case <-time.After(50 * time.Millisecond):
	}
	for range 2 { // a second table is like the first
		p.take(order{Table: &Table{Default: &Route{}, Backends: [][]string{{app.Listener.Addr().String()}}}})
	}
	if code := <-answered; code != http.StatusOK {
		t.Errorf("answered %d", code)
	}
	if err := p.servers[0].Close(); err != nil {
		t.Error(err)
	}
	serving.Wait()
}
