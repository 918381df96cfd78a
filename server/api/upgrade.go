package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"k8s.io/apimachinery/pkg/util/httpstream"
)

type upgradeKey struct{}

// withUpgrade notes the client's connection for a request that takes it over, as exec, attach and port-forward do: it serves that
// request alone.
func withUpgrade(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connectionKey{}).(*connection); ok && c.Conn != nil && r.ProtoMajor == 1 && httpstream.IsUpgradeRequest(r) {
			r = r.WithContext(context.WithValue(r.Context(), upgradeKey{}, c.Conn))
		}
		h.ServeHTTP(w, r)
	})
}

// upgraded is the client's connection that a request takes over; nil if it takes none.
func upgraded(ctx context.Context) net.Conn {
	conn, _ := ctx.Value(upgradeKey{}).(net.Conn)
	return conn
}

// watched is a connection to a node that tells when it is lost. Who has it then breaks what hangs on it: an end would be taken for the
// command's. Upstream's translation from WebSocket to SPDY would tell the client of success, since an error stream that ends empty is
// how SPDY says that a command ended with 0. That is also what a client that speaks SPDY itself (kubectl before 1.31) makes of a
// connection that is lost, however it ends.
type watched struct {
	net.Conn
	lost func()
}

func (c *watched) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, net.ErrClosed) {
		c.lost()
	}
	return n, err
}

// CloseWrite says that no more comes.
func (c *watched) CloseWrite() error { return closeWrite(c.Conn) }

// closeWrite leaves the way back open, where the connection can.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
