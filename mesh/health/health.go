// Package health answers at the healthCheckNodePort of Services: a load balancer outside the cluster asks each node there whether
// it has an endpoint of a Service whose externalTrafficPolicy is Local, and sends to those that have.
//
// Invariant: yes is said only of what the node's rules lead to, which are ready endpoints of this node, and only while the rules
// are as they should be. Without such a Service nothing listens.
//
//	s := health.Open(health.Options{Enter: host.Do})
//	s.Set(health.Config{Node: "n1", Services: services, Endpoints: slices, Healthy: true})
package health

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// connections that are served at a time at each port; more wait in the kernel's queue.
const connections = 64

// Options are fixed for a Server's life.
type Options struct {
	Logger *slog.Logger
	Enter  func(f func() error) error // runs f where the server's sockets are to be opened
	// Failed is called when a Service's port cannot be had, once for each reason; optional.
	Failed func(svc *corev1.Service, err error)
}

// Config is what may change.
type Config struct {
	Node      string
	Services  []*corev1.Service
	Endpoints []*discoveryv1.EndpointSlice
	Healthy   bool // the rules for Services are as they should be
}

// Server answers at the ports.
type Server struct {
	Options

	mu      sync.Mutex
	checks  map[uint16]*check
	failed  map[uint16]string // why ports could not be had
	serving sync.WaitGroup
}

// check is one port.
type check struct {
	server *http.Server
	answer atomic.Pointer[answer]
}

// answer is word for word what upstream's proxy says.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints int  `json:"localEndpoints"`
	Healthy        bool `json:"serviceProxyHealthy"`
}

// Open makes a Server, which listens from the first Set on.
func Open(o Options) *Server {
	return &Server{Options: o, checks: map[uint16]*check{}, failed: map[uint16]string{}}
}

// Set makes the server answer by the configuration. A port that somebody else has is tried again with the next Set.
func (s *Server) Set(c Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := map[uint16]*corev1.Service{}
	for _, svc := range c.Services {
		if asked(svc) {
			wanted[uint16(svc.Spec.HealthCheckNodePort)] = svc
		}
	}
	for port, ch := range s.checks {
		if wanted[port] == nil {
			ch.server.Close()
			delete(s.checks, port)
		}
	}
	for port := range s.failed {
		if wanted[port] == nil {
			delete(s.failed, port)
		}
	}
	for port, svc := range wanted {
		a := &answer{LocalEndpoints: local(svc, c), Healthy: c.Healthy}
		a.Service.Namespace, a.Service.Name = svc.Namespace, svc.Name
		if ch := s.checks[port]; ch != nil {
			ch.answer.Store(a)
			continue
		}
		if err := s.open(port, a); err != nil {
			s.fail(port, svc, err)
			continue
		}
		delete(s.failed, port)
	}
}

// asked says whether a Service has a port to be asked at.
func asked(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal &&
		svc.Spec.HealthCheckNodePort > 0 && svc.Spec.HealthCheckNodePort < 1<<16
}

// local counts a Service's ready endpoints on this node, each once however many ports it has.
func local(svc *corev1.Service, c Config) int {
	var found []string
	for _, s := range c.Endpoints {
		if s.Namespace != svc.Namespace || s.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, e := range s.Endpoints {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if ready && e.NodeName != nil && *e.NodeName == c.Node && len(e.Addresses) > 0 && !slices.Contains(found, e.Addresses[0]) {
				found = append(found, e.Addresses[0])
			}
		}
	}
	return len(found)
}

func (s *Server) open(port uint16, a *answer) error {
	ch := &check{}
	ch.answer.Store(a)
	ch.server = &http.Server{Handler: ch, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ErrorLog: slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug)}
	var l net.Listener
	err := s.Enter(func() (err error) {
		l, err = net.Listen("tcp4", ":"+strconv.Itoa(int(port)))
		return err
	})
	if err != nil {
		return err
	}
	s.checks[port] = ch
	s.serving.Go(func() { _ = ch.server.Serve(netutil.LimitListener(l, connections)) }) // until it is closed
	return nil
}

func (s *Server) fail(port uint16, svc *corev1.Service, err error) {
	if s.failed[port] == err.Error() {
		return
	}
	s.failed[port] = err.Error()
	s.Logger.Warn("load balancers cannot ask for a Service", "service", svc.Namespace+"/"+svc.Name, "port", port, "err", err)
	if s.Failed != nil {
		s.Failed(svc, err)
	}
}

// ServeHTTP answers, whatever the path.
func (ch *check) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a := ch.answer.Load()
	code := http.StatusServiceUnavailable
	if a.Healthy && a.LocalEndpoints > 0 {
		code = http.StatusOK
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.LocalEndpoints))
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(a) // who asked has gone
}

// Close stops answering.
func (s *Server) Close() {
	s.Set(Config{})
	s.serving.Wait()
}
