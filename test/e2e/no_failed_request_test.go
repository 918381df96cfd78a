package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

const (
	requestsPerSecond = 200
	requestsAtLeast   = 10_000
)

// While the image is changed twice, every new connection through the Service is answered.
func TestNoFailedRequest(t *testing.T) {
	c := start(t, 3, hosts.ClusterOptions{})
	c.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.7.9
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
        lifecycle: {preStop: {exec: {command: [sleep, "5"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
`)
	c.ready("app=web", 4, 90*time.Second)
	address := net.JoinHostPort(c.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"), "80")
	c.eventually(20*time.Second, "the Service answers", func() error {
		for _, h := range c.Hosts {
			if _, err := request(c.ctx, h, address); err != nil {
				return fmt.Errorf("from %s: %w", h.Name, err)
			}
		}
		return nil
	})

	load := newLoad(c.Hosts, address)
	go load.run(c.ctx)
	for _, image := range []string{"nginx:1.9.1", "nginx:1.7.9"} {
		c.kubectl("set", "image", "deployment/web", "nginx="+image)
		c.kubectl("rollout", "status", "deployment/web", "--timeout=180s")
	}
	c.eventually(3*time.Minute, "enough requests", func() error {
		if n := load.sent(); n < requestsAtLeast {
			return fmt.Errorf("%d of %d", n, requestsAtLeast)
		}
		return nil
	})
	load.stop()
	t.Logf("%d requests, %d of them failed, answered by %v", load.total, len(load.errors), load.answers)
	for _, e := range load.errors[:min(len(load.errors), 10)] {
		t.Error(e)
	}
	if len(load.answers) != 2 {
		t.Errorf("the requests did not span the image changes: %v", load.answers)
	}
}

// load opens new connections at a steady rate, from each host in turn.
type load struct {
	hosts   []*hosts.Host
	address string
	end     chan struct{}
	ended   chan struct{}

	mu      sync.Mutex
	total   int
	errors  []string
	answers map[string]int // image -> answers
}

func newLoad(h []*hosts.Host, address string) *load {
	return &load{hosts: h, address: address, end: make(chan struct{}), ended: make(chan struct{}), answers: map[string]int{}}
}

func (l *load) run(ctx context.Context) {
	defer close(l.ended)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / requestsPerSecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-l.end:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			wg.Go(func() { l.one(ctx, l.hosts[i%len(l.hosts)]) })
		}
	}
}

func (l *load) one(ctx context.Context, h *hosts.Host) {
	began := time.Now()
	image, err := request(ctx, h, l.address)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	if err != nil {
		l.errors = append(l.errors, fmt.Sprintf("%s from %s after %s: %v", began.Format("15:04:05.000"), h.Name, time.Since(began).Round(time.Millisecond), err))
		return
	}
	l.answers[image]++
}

func (l *load) sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

func (l *load) stop() {
	close(l.end)
	<-l.ended
}

// request makes one connection from a host's network and returns which image answered.
func request(ctx context.Context, h *hosts.Host, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return "", fmt.Errorf("send: %w", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	defer res.Body.Close()
	var page strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&page); err != nil {
		return "", fmt.Errorf("read the page: %w", err)
	}
	if res.StatusCode != http.StatusOK || !strings.Contains(page.String(), "Welcome to nginx!") {
		return "", fmt.Errorf("answer %s, %d bytes", res.Status, page.Len())
	}
	return res.Header.Get("X-Image"), nil
}
