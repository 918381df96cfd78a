package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/internal/upstream"
)

// answer is what a container said.
type answer struct {
	ok      bool
	warning bool
	output  string
	err     error // the probe itself failed: it says nothing about the container
}

// maxOutput is how much of an answer is read.
const maxOutput = 10 << 10

// userAgentVersion ends the names under which the kubelet asks: programs know a probe by them.
const userAgentVersion = "/" + upstream.Major + "." + upstream.Minor

func (w *watch) once(ctx context.Context, p *corev1.Probe) answer {
	timeout := max(time.Duration(p.TimeoutSeconds)*time.Second, time.Second)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c := w.target.Container
	switch {
	case p.Exec != nil:
		return w.exec(ctx, p.Exec.Command, timeout)
	case p.HTTPGet != nil:
		req, err := Request(ctx, p.HTTPGet, c, w.target.IP, "probe")
		if err != nil {
			return answer{err: err}
		}
		return get(req)
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, c)
		if err != nil {
			return answer{err: err}
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = w.target.IP
		}
		return connect(ctx, net.JoinHostPort(host, strconv.Itoa(port)))
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return health(ctx, net.JoinHostPort(w.target.IP, strconv.Itoa(int(p.GRPC.Port))), service, timeout)
	}
	return answer{err: fmt.Errorf("missing probe handler for %s:%s", podspec.Full(w.pod), c.Name)}
}

func (w *watch) exec(ctx context.Context, command []string, timeout time.Duration) answer {
	var env []string
	for _, v := range w.target.Container.Env {
		env = append(env, v.Name+"="+v.Value)
	}
	cmd, _ := podspec.Command(command, nil, env)
	// As the kubelet has it from its runtime: what went to stdout, then what went to stderr, whatever came first.
	out, bad := seam.Output{Max: maxOutput}, seam.Output{Max: maxOutput}
	code, err := w.m.Exec(ctx, w.target.ID, cmd, seam.Streams{Stdout: &out, Stderr: &bad})
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return answer{output: fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(cmd, " "), timeout)}
	case err != nil:
		return answer{err: err}
	}
	said := out.String() + bad.String()
	return answer{ok: code == 0, output: said[:min(len(said), maxOutput)]}
}

// Port resolves a port by its number or its name.
func Port(port intstr.IntOrString, c *corev1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		n = 0
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				n = int(p.ContainerPort)
			}
		}
		if n == 0 {
			var err error
			if n, err = strconv.Atoi(port.StrVal); err != nil {
				return 0, fmt.Errorf("couldn't find port: %s in container: %s", port.StrVal, c.Name)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

// Request makes the request of an HTTP probe or hook.
func Request(ctx context.Context, get *corev1.HTTPGetAction, c *corev1.Container, ip, purpose string) (*http.Request, error) {
	port, err := Port(get.Port, c)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(get.Path)
	if err != nil {
		u = &url.URL{Path: get.Path} // taken as it is
	}
	u.Scheme = strings.ToLower(string(get.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	host := get.Host
	if host == "" {
		host = ip
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range get.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", "kube-"+purpose+userAgentVersion)
	}
	if v, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if len(v) > 0 && v[0] == "" {
		req.Header.Del("Accept")
	}
	req.Host = req.Header.Get("Host")
	return req, nil
}

// dialer closes with a reset after a second: a node that probes often must not run out of ports
// that wait.
var dialer = &net.Dialer{Control: lingerControl}

// Client asks a container; certificates are not verified, since a pod has its own.
var client = &http.Client{
	Transport: &http.Transport{
		DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true,
	},
	CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if req.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	},
}

// Do sends a request to a container.
func Do(req *http.Request) (*http.Response, error) { return client.Do(req) }

func get(req *http.Request) answer {
	res, err := client.Do(req)
	if err != nil {
		return answer{output: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	switch {
	case err != nil:
		return answer{err: err}
	case res.StatusCode < 200 || res.StatusCode >= 400:
		return answer{output: fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode)}
	case res.StatusCode >= 300:
		return answer{ok: true, warning: true, output: fmt.Sprintf("Probe terminated redirects, Response body: %v", string(body))}
	}
	return answer{ok: true, output: string(body)}
}

func connect(ctx context.Context, address string) answer {
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return answer{output: err.Error()}
	}
	conn.Close()
	return answer{ok: true}
}
