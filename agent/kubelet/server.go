// Package kubelet answers the kubelet's HTTP API on connections that come over the link: logs, exec,
// attach, port-forward, the pods, and what they use.
//
// Invariant: it listens nowhere. Whoever reaches it came through the server, which has asked its
// authorizer; a connection of anybody else cannot exist. A reader that is slow delays only itself.
//
//	l := kubelet.NewListener()
//	go kubelet.Serve(ctx, l, kubelet.Config{Pods: manager, Runtime: rt, ReadLog: readLog, Logger: log})
//	l.Push(conn) // from uplink's Serve
package kubelet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/seam"
	"bramble.dev/agent/worker"
	"bramble.dev/link"
)

// Pods are the pods of this node.
type Pods interface {
	Pod(namespace, name string, uid types.UID) (worker.View, bool)
	Pods() []worker.View
}

// LogOptions say what is read of a log.
type LogOptions struct {
	Follow     bool
	Ended      <-chan struct{} // with Follow: closed when nothing more will be written
	Tail       *int64
	Since      time.Time
	Timestamps bool
	Limit      int64 // bytes; zero: all
}

// Config is what the API serves.
type Config struct {
	Node    string
	Dir     string // the agent's, for logs of which the runtime no longer knows
	Pods    Pods
	Runtime seam.Runtime
	// BoardLogs is the folder of the board's own logs, as a rule /var/log.
	BoardLogs string
	ReadLog   func(ctx context.Context, path string, o LogOptions, stdout, stderr io.Writer) error
	// NodeStats is what the node itself uses.
	NodeStats func() NodeStats
	// ConfigZ is shown by configz; may be nil.
	ConfigZ func() any
	Logger  *slog.Logger
}

// Listener is a net.Listener whose connections are pushed.
type Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewListener makes one.
func NewListener() *Listener {
	return &Listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Push hands a connection to the server; it is closed if there is none any more.
func (l *Listener) Push(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		c.Close()
	}
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return &client{Conn: c}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// client is a connection whose end is the end of what was asked for on it: also of an exec or an attach, which have taken the
// connection from the HTTP server and may have nothing to say to it for hours.
type client struct {
	net.Conn
	gone context.CancelFunc
}

func (c *client) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone()
	}
	return n, err
}

func (c *client) Close() error {
	c.gone()
	return c.Conn.Close()
}

// Addr is nowhere.
func (l *Listener) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "link" }
func (address) String() string  { return "link" }

const (
	headerTime = 30 * time.Second
	// idleTime is how long a connection without a request is kept: it costs memory at both ends.
	idleTime = 2 * time.Minute
)

// Serve answers until ctx is done. Sessions that are open then end.
func Serve(ctx context.Context, l net.Listener, c Config) error {
	s := &http.Server{
		Handler: Handler(c), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			ctx, c.(*client).gone = context.WithCancel(ctx)
			return ctx
		},
		ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		s.Close()
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Handler is the API.
func Handler(c Config) http.Handler {
	a := &api{Config: c}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /healthz/{check...}", ok)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.logs)
	for _, method := range []string{"GET ", "POST "} {
		for _, uid := range []string{"", "/{uid}"} {
			mux.HandleFunc(method+"/exec/{namespace}/{pod}"+uid+"/{container}", upgrading(a.exec))
			mux.HandleFunc(method+"/attach/{namespace}/{pod}"+uid+"/{container}", upgrading(a.attach))
			mux.HandleFunc(method+"/portForward/{namespace}/{pod}"+uid, upgrading(a.portForward))
		}
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", a.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", a.run)
	mux.HandleFunc("GET /pods", func(w http.ResponseWriter, _ *http.Request) { a.pods(w, false) })
	mux.HandleFunc("GET /pods/", func(w http.ResponseWriter, _ *http.Request) { a.pods(w, false) })
	mux.HandleFunc("GET /runningpods/", func(w http.ResponseWriter, _ *http.Request) { a.pods(w, true) })
	mux.HandleFunc("GET /stats/summary", a.summary)
	mux.HandleFunc("GET "+link.UsagePath, a.usage)
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("GET /metrics/resource", a.resourceMetrics)
	mux.HandleFunc("GET /configz", a.configz)
	mux.HandleFunc("GET /logs/", a.boardLogs)
	return mux
}

// upgrading ends the connection with an answer that is a refusal: client-go's SPDY leaves it open then, and 128 such connections
// within idleTime would be all that the link has room for.
func upgrading(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { handle(closing{w}, r) }
}

type closing struct{ http.ResponseWriter }

func (c closing) WriteHeader(code int) {
	if code != http.StatusSwitchingProtocols {
		c.Header().Set("Connection", "close")
	}
	c.ResponseWriter.WriteHeader(code)
}

// Hijack implements http.Hijacker, which upgrades ask for by that name.
func (c closing) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return c.ResponseWriter.(http.Hijacker).Hijack()
}

type api struct {
	Config
	meter meter
}

func ok(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }

// boardLogs shows the board's own logs. A link that leads out of their folder is not followed: pods with a hostPath there
// could put one.
func (a *api) boardLogs(w http.ResponseWriter, r *http.Request) {
	folder, err := os.OpenRoot(a.BoardLogs)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer folder.Close()
	http.StripPrefix("/logs", http.FileServerFS(folder.FS())).ServeHTTP(w, r)
}

func reply(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(b)
}

func (a *api) pods(w http.ResponseWriter, running bool) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, v := range a.Pods.Pods() {
		if running && (len(v.Sandboxes) == 0 || !v.Sandboxes[0].Ready) {
			continue
		}
		pod := *v.Pod
		pod.Status = v.Status
		list.Items = append(list.Items, pod)
	}
	reply(w, list)
}

func (a *api) configz(w http.ResponseWriter, _ *http.Request) {
	var c any = map[string]any{}
	if a.ConfigZ != nil {
		c = a.ConfigZ()
	}
	reply(w, map[string]any{"kubeletconfig": c})
}

// find finds the pod and the running container that a request names; otherwise it has answered.
func (a *api) find(w http.ResponseWriter, r *http.Request) (worker.View, seam.Container, bool) {
	v, ok := a.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if !ok {
		http.Error(w, "pod does not exist", http.StatusNotFound)
		return v, seam.Container{}, false
	}
	name := r.PathValue("container")
	for _, s := range v.Sandboxes {
		for _, c := range s.Containers {
			if c.Name == name && c.State == seam.Running {
				return v, c, true
			}
		}
	}
	http.Error(w, "container not found (\""+name+"\")", http.StatusNotFound)
	return v, seam.Container{}, false
}
