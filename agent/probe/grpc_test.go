package probe

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// library asks as the kubelet does, with gRPC's own library, and words the answer as the kubelet does.
func library(t *testing.T, address, service string, timeout time.Duration) string {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	//lint:ignore SA1019 the kubelet uses it, and what it says of a server that is not there is what is compared
	conn, err := grpc.DialContext(ctx, address, grpc.WithBlock(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Sprintf("timeout: failed to connect service %q within %v: %+v", address, timeout, err)
	}
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	said, _ := status.FromError(err)
	switch {
	case said.Code() == codes.Unimplemented:
		return "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + said.Message()
	case said.Code() == codes.DeadlineExceeded:
		return fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
	case err != nil:
		return fmt.Sprintf("error: health rpc probe failed: %+v", err)
	case res.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return fmt.Sprintf("service unhealthy (responded with %q)", res.GetStatus())
	}
	return "service healthy"
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// speaksHTTP serves HTTP/1 or HTTP/2 without encryption, and not gRPC.
func speaksHTTP(t *testing.T, two bool, f http.HandlerFunc) string {
	s := httptest.NewUnstartedServer(f)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(!two)
	s.Config.Protocols.SetUnencryptedHTTP2(two)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.CloseClientConnections)
	return s.Listener.Addr().String()
}

// TestGRPC compares the tiny client with the library, over servers that the tiny client has never seen.
func TestGRPC(t *testing.T) {
	good, plain, h := grpc.NewServer(), grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(good, h)
	h.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	h.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	h.SetServingStatus("new", 7)
	serve := func(s *grpc.Server) string {
		l := listen(t)
		go s.Serve(l)
		t.Cleanup(s.Stop)
		return l.Addr().String()
	}
	goodAt, plainAt := serve(good), serve(plain)
	gone := listen(t)
	gone.Close()
	closing, silent := listen(t), listen(t)
	go func() {
		for {
			conn, err := closing.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	said := func(code, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc+proto")
			w.Header().Set("Grpc-Status", code)
			w.Header().Set("Grpc-Message", message)
		}
	}
	answered := func(code int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{kind}
			if kind == "" {
				w.Header()["Content-Type"] = nil
			}
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	for _, tt := range []struct{ name, address, service string }{
		{"all", goodAt, ""},
		{"up", goodAt, "up"},
		{"down", goodAt, "down"},
		{"a status of later", goodAt, "new"},
		{"unknown", goodAt, "other"},
		{"without health", plainAt, ""},
		{"no port", gone.Addr().String(), ""},
		{"closes", closing.Addr().String(), ""},
		{"says nothing", silent.Addr().String(), ""},
		{"HTTP/1", speaksHTTP(t, false, answered(200, "text/plain", "hello")), ""},
		{"HTTP/2", speaksHTTP(t, true, answered(200, "text/plain", "hello")), ""},
		{"404", speaksHTTP(t, true, http.NotFound), ""},
		{"503, no type", speaksHTTP(t, true, answered(503, "", "busy")), ""},
		{"500, no body", speaksHTTP(t, true, answered(500, "text/html", "")), ""},
		{"unavailable", speaksHTTP(t, true, said("14", "not 100%25 there")), ""},
		{"a code of later", speaksHTTP(t, true, said("99", "")), ""},
		{"late by its own word", speaksHTTP(t, true, said("4", "x")), ""},
		{"no code", speaksHTTP(t, true, answered(200, "application/grpc", "")), ""},
		{"no message", speaksHTTP(t, true, said("0", "")), ""},
		{"hangs", speaksHTTP(t, true, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), ""},
		{"hangs within", speaksHTTP(t, true, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}), ""},
		{"aborts", speaksHTTP(t, true, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			want := library(t, tt.address, tt.service, time.Second)
			var port int
			fmt.Sscanf(tt.address, "127.0.0.1:%d", &port)
			p := corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &tt.service}}}
			got := ask(t, "127.0.0.1", p, nil)
			if got.output != want || got.ok != (want == "service healthy") || got.err != nil {
				t.Errorf("%+v, want %q", got, want)
			}
			t.Log(want)
		})
	}
}

// TestGRPCConnectsAgain is a server that is there only a moment after the probe began.
func TestGRPCConnectsAgain(t *testing.T) {
	l := listen(t)
	address := l.Addr().String()
	l.Close()
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, grpchealth.NewServer())
	defer s.Stop()
	time.AfterFunc(200*time.Millisecond, func() {
		if l, err := net.Listen("tcp", address); err == nil {
			s.Serve(l)
		}
	})
	var port int
	fmt.Sscanf(address, "127.0.0.1:%d", &port)
	if got := ask(t, "127.0.0.1", corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}}}, nil); !got.ok {
		t.Errorf("%+v", got)
	}
}

func FuzzServingStatus(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Fuzz(func(t *testing.T, b []byte) { servingStatus(b) })
}
