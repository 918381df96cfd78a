package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// health asks grpc.health.v1.Health/Check, and says of the answer what gRPC's library makes the kubelet say. One unary call with two
// tiny messages is not worth the 5 MB of that library.
func health(ctx context.Context, address, service string, timeout time.Duration) answer {
	var message []byte
	if service != "" {
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	frame = append(frame, message...)
	for {
		got, err := check(ctx, address, frame)
		var said *rpcError
		switch {
		case err == nil:
			return got
		case errors.As(err, &said):
			return said.answer(timeout)
		}
		select { // the library goes on trying to connect
		case <-time.After(reconnect):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return answer{output: fmt.Sprintf("timeout: failed to connect service %q within %v: %+v", address, timeout, ctx.Err())}
			}
			return answer{output: fmt.Sprintf("error: failed to connect service at %q: %+v", address, ctx.Err())}
		}
	}
}

// reconnect is how long gRPC's library waits before it connects again.
const reconnect = time.Second

// rpcError is the library's error of a call: what the server said, or what happened to it.
type rpcError struct{ code, text string }

func (e *rpcError) Error() string {
	return fmt.Sprintf("rpc error: code = %s desc = %s", e.code, e.text)
}

func (e *rpcError) answer(timeout time.Duration) answer {
	switch e.code {
	case "Unimplemented":
		return answer{output: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + e.text}
	case "DeadlineExceeded":
		return answer{output: fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}
	}
	return answer{output: "error: health rpc probe failed: " + e.Error()}
}

// check calls once. An error that is no rpcError says that there was no server which speaks HTTP/2.
func check(ctx context.Context, address string, frame []byte) (answer, error) {
	var server greeted
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			server.Conn = conn
			return &server, err
		},
		DisableKeepAlives: true, DisableCompression: true, Protocols: unencryptedHTTP2,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/grpc.health.v1.Health/Check", bytes.NewReader(frame))
	if err != nil {
		return answer{err: err}, nil
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", "kube-probe"+userAgentVersion)
	res, err := client.Do(req)
	if err != nil && !server.ready.Load() {
		return answer{}, err
	}
	if err != nil {
		return answer{}, cutOff(ctx, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err != nil {
		return answer{}, cutOff(ctx, err)
	}
	return judge(res, body)
}

var unencryptedHTTP2 = func() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}()

// greeted is a connection on which a server has, or has not, begun as HTTP/2 begins: with a frame of settings.
type greeted struct {
	net.Conn
	ready atomic.Bool
	read  int // bytes, by the one that reads
}

func (g *greeted) Read(b []byte) (int, error) {
	const typeAt, settings = 3, 4
	n, err := g.Conn.Read(b)
	if at := typeAt - g.read; at >= 0 && at < n && b[at] == settings {
		g.ready.Store(true)
	}
	g.read += n
	return n, err
}

// cutOff is a call that got no answer to its end.
func cutOff(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &rpcError{"DeadlineExceeded", ctx.Err().Error()}
	}
	if _, stream, ok := strings.Cut(err.Error(), "stream error: stream ID "); ok {
		if parts := strings.Split(stream, "; "); len(parts) > 1 {
			code, known := resets[parts[1]]
			if !known {
				code = "Internal"
			}
			return &rpcError{code, "stream terminated by RST_STREAM with error code: " + parts[1]}
		}
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return &rpcError{"Unavailable", fmt.Sprintf("error reading from server: %v", err)}
}

// resets are gRPC's codes for HTTP/2's reasons to end a stream; of the others it is Internal.
var resets = map[string]string{
	"FLOW_CONTROL_ERROR": "ResourceExhausted", "ENHANCE_YOUR_CALM": "ResourceExhausted", "REFUSED_STREAM": "Unavailable", "CANCEL": "Canceled",
	"INADEQUATE_SECURITY": "PermissionDenied",
}

// statuses are gRPC's codes for HTTP's; of the others it is Unknown.
var statuses = map[int]string{
	http.StatusBadRequest: "Internal", http.StatusUnauthorized: "Unauthenticated", http.StatusForbidden: "PermissionDenied", http.StatusNotFound: "Unimplemented",
	http.StatusTooManyRequests: "Unavailable", http.StatusBadGateway: "Unavailable", http.StatusServiceUnavailable: "Unavailable", http.StatusGatewayTimeout: "Unavailable",
}

func judge(res *http.Response, body []byte) (answer, error) {
	if kind := res.Header.Get("Content-Type"); !grpcType.MatchString(kind) {
		return answer{}, foreign(res, kind, body)
	}
	code, text := res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message")
	if code == "" { // a reply without a body has them in its header
		code, text = res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message")
	}
	if unescaped, err := url.PathUnescape(text); err == nil {
		text = unescaped
	}
	if code != "0" {
		return answer{}, &rpcError{codeName(code), text}
	}
	if len(body) == 0 {
		return answer{}, &rpcError{"Internal", "cardinality violation: received no response message from non-server-streaming RPC"}
	}
	status, err := servingStatus(body)
	if err != nil {
		return answer{}, &rpcError{"Internal", fmt.Sprintf("grpc: failed to unmarshal the received message: %v", err)}
	}
	if status != 1 {
		names := []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
		name := fmt.Sprint(status)
		if status < uint64(len(names)) {
			name = names[status]
		}
		return answer{output: fmt.Sprintf("service unhealthy (responded with %q)", name)}, nil
	}
	return answer{ok: true, output: "service healthy"}, nil
}

var grpcType = regexp.MustCompile(`^application/grpc($|[+;])`)

// foreign is an answer by something that does not speak gRPC.
func foreign(res *http.Response, kind string, body []byte) error {
	code, known := statuses[res.StatusCode]
	if !known {
		code = "Unknown"
	}
	text := fmt.Sprintf("unexpected HTTP status code received from server: %d (%s); ", res.StatusCode, http.StatusText(res.StatusCode))
	if kind == "" {
		text += "malformed header: missing HTTP content-type"
	} else {
		text += fmt.Sprintf("transport: received unexpected content-type %q", kind)
	}
	if res.ContentLength != 0 {
		text += fmt.Sprintf("\ndata: %q", body[:min(len(body), 1024)])
	}
	return &rpcError{code, text}
}

// codeName is a code's name; a server that says none has an unknown one.
func codeName(code string) string {
	if code == "" {
		return "Unknown"
	}
	names := strings.Fields("OK Canceled Unknown InvalidArgument DeadlineExceeded NotFound AlreadyExists PermissionDenied ResourceExhausted FailedPrecondition Aborted OutOfRange Unimplemented Internal Unavailable DataLoss Unauthenticated")
	for i, name := range names {
		if code == fmt.Sprint(i) {
			return name
		}
	}
	return "Code(" + code + ")"
}

var errReply = errors.New("malformed reply")

// servingStatus reads the one field of a HealthCheckResponse behind its length prefix.
func servingStatus(body []byte) (uint64, error) {
	if len(body) < 5 || body[0] != 0 || int(binary.BigEndian.Uint32(body[1:5])) != len(body)-5 {
		return 0, errReply
	}
	body = body[5:]
	var status uint64
	for len(body) > 0 {
		number, typ, n := protowire.ConsumeTag(body)
		if n < 0 {
			return 0, errReply
		}
		body = body[n:]
		if number == 1 && typ == protowire.VarintType {
			status, n = protowire.ConsumeVarint(body)
		} else {
			n = protowire.ConsumeFieldValue(number, typ, body)
		}
		if n < 0 {
			return 0, errReply
		}
		body = body[n:]
	}
	return status, nil
}
