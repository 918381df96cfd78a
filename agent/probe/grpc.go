package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// health asks grpc.health.v1.Health/Check. One unary call with two tiny messages is not worth the
// 5 MB of a gRPC library.
func health(ctx context.Context, address, service string, timeout time.Duration) answer {
	var message []byte
	if service != "" {
		message = protowire.AppendTag(message, 1, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	frame = append(frame, message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/grpc.health.v1.Health/Check", bytes.NewReader(frame))
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", "kube-probe"+userAgentVersion)
	res, err := grpcClient.Do(req)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return answer{output: fmt.Sprintf("timeout: failed to connect service %q within %v: context deadline exceeded", address, timeout)}
		}
		return answer{output: fmt.Sprintf("error: failed to connect service at %q: %+v", address, err)}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return answer{output: fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)}
	}
	if err != nil {
		return answer{output: fmt.Sprintf("error: health rpc probe failed: %+v", err)}
	}
	return judge(res, body)
}

func judge(res *http.Response, body []byte) answer {
	code, text := res.Trailer.Get("Grpc-Status"), res.Trailer.Get("Grpc-Message")
	if code == "" { // a reply without a body has them in its header
		code, text = res.Header.Get("Grpc-Status"), res.Header.Get("Grpc-Message")
	}
	if unescaped, err := url.PathUnescape(text); err == nil {
		text = unescaped
	}
	const unimplemented = "12"
	switch {
	case res.StatusCode != http.StatusOK:
		return answer{output: fmt.Sprintf("error: health rpc probe failed: unexpected HTTP status code received from server: %d (%s)", res.StatusCode, http.StatusText(res.StatusCode))}
	case code == unimplemented:
		return answer{output: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + text}
	case code != "0":
		return answer{output: fmt.Sprintf("error: health rpc probe failed: rpc error: code = %s desc = %s", codeName(code), text)}
	}
	status, err := servingStatus(body)
	if err != nil {
		return answer{output: fmt.Sprintf("error: health rpc probe failed: %v", err)}
	}
	if status != 1 {
		names := []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
		name := fmt.Sprint(status)
		if status < uint64(len(names)) {
			name = names[status]
		}
		return answer{output: fmt.Sprintf("service unhealthy (responded with %q)", name)}
	}
	return answer{ok: true, output: "service healthy"}
}

func codeName(code string) string {
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

var grpcClient = func() *http.Client {
	t := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, DisableCompression: true, Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: t}
}()
