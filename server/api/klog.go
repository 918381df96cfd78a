package api

import (
	"context"
	"log/slog"
	"strings"

	"k8s.io/klog/v2"
)

// clientMistakes begin the messages by which upstream logs, as errors, what a client did wrong or how a connection ended. The
// client is told; to an operator they say nothing that can be acted upon.
var clientMistakes = []string{
	"Unable to authenticate the request", "Couldn't parse request", "Error - ", "unable to match the audience",
	"Timeout or abort while handling", "Post-timeout activity", "Failed to flush watch response", "Failed to encode watch event",
	"apiserver was unable to write", "apiserver was unable to close cleanly", "Error proxying response from backend",
	"Error on socket receive", "Error closing", "Unable to upgrade",
}

// upstreamLog passes on what upstream's parts say through klog: warnings and errors, and clients' mistakes at the debug level.
type upstreamLog struct{ slog.Handler }

func routeKlog(log *slog.Logger) { klog.SetSlogLogger(slog.New(upstreamLog{log.Handler()})) }

func (u upstreamLog) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && u.Handler.Enabled(ctx, l)
}

func (u upstreamLog) Handle(ctx context.Context, r slog.Record) error {
	if clients(r) {
		if !u.Handler.Enabled(ctx, slog.LevelDebug) {
			return nil
		}
		r.Level = slog.LevelDebug
	}
	return u.Handler.Handle(ctx, r)
}

// clients says whether a record is about what a client did: it begins so, or tells that the client of an exec or a port-forward
// hung up, which comes once a stream with the close code as its error.
func clients(r slog.Record) bool {
	for _, m := range clientMistakes {
		if strings.HasPrefix(r.Message, m) {
			return true
		}
	}
	const hungUp = "websocket: close "
	gone := strings.Contains(r.Message, hungUp)
	r.Attrs(func(a slog.Attr) bool {
		gone = gone || strings.Contains(a.Value.String(), hungUp)
		return !gone
	})
	return gone
}

func (u upstreamLog) WithAttrs(a []slog.Attr) slog.Handler {
	return upstreamLog{u.Handler.WithAttrs(a)}
}
func (u upstreamLog) WithGroup(name string) slog.Handler {
	return upstreamLog{u.Handler.WithGroup(name)}
}
