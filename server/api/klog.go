package api

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"k8s.io/klog/v2"
)

// clientMistakes begin the messages by which upstream logs, as errors, what a client did wrong or how a connection ended. The
// client is told; to an operator they say nothing that can be acted upon.
var clientMistakes = []string{
	"Unable to authenticate the request", "Failed to convert options while estimating work", "Couldn't parse request", "Error - ", "unable to match the audience",
	"Timeout or abort while handling", "Post-timeout activity", "Failed to flush watch response", "Failed to encode watch event",
	"apiserver was unable to write", "apiserver was unable to close cleanly", "Error proxying response from backend",
	"apiserver received an error that is not an metav1.Status: &tls.", // how a connection ended while it was written to
	"Error on socket receive", "Error closing", "Unable to upgrade",
}

// upstreamLog passes on what upstream's parts say through klog: warnings and errors, and clients' mistakes at the debug level.
type upstreamLog struct {
	slog.Handler
	repeated *repeated
}

func newUpstreamLog(h slog.Handler) upstreamLog {
	return upstreamLog{h, &repeated{said: map[string]bool{}}}
}

func routeKlog(log *slog.Logger) { klog.SetSlogLogger(slog.New(newUpstreamLog(log.Handler()))) }

// trying begins the messages by which upstream says, every 10 seconds, that an issuer of tokens is not there yet.
const trying = "oidc authenticator: initializing plugin"

// repeated remembers what was said while something is tried again and again: a site that is cut off must not fill its log. It remembers 64
// messages; what is new after these is not said.
type repeated struct {
	mu   sync.Mutex
	said map[string]bool
}

func (o *repeated) heard(message string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.said[message] || len(o.said) == 64 {
		return true
	}
	o.said[message] = true
	return false
}

func (u upstreamLog) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && u.Handler.Enabled(ctx, l)
}

func (u upstreamLog) Handle(ctx context.Context, r slog.Record) error {
	if clients(r) || strings.HasPrefix(r.Message, trying) && u.repeated.heard(r.Message) {
		if !u.Handler.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
		r.Level = slog.LevelDebug
	}
	return u.Handler.Handle(ctx, r)
}

// clients says whether a record is about what a client did, by its message or by the error of an "Unhandled Error".
func clients(r slog.Record) bool {
	is := clientMistake(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		is = is || clientMistake(a.Value.String())
		return !is
	})
	return is
}

// clientMistake: it begins so, or tells that the client of an exec or a port-forward hung up, which comes once a stream with the close
// code as its error.
func clientMistake(text string) bool {
	return strings.Contains(text, "websocket: close ") || slices.ContainsFunc(clientMistakes, func(m string) bool { return strings.HasPrefix(text, m) })
}

func (u upstreamLog) WithAttrs(a []slog.Attr) slog.Handler {
	return upstreamLog{u.Handler.WithAttrs(a), u.repeated}
}
func (u upstreamLog) WithGroup(name string) slog.Handler {
	return upstreamLog{u.Handler.WithGroup(name), u.repeated}
}
