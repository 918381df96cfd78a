package api

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// clientMistakes begin the messages by which upstream logs, as errors, what a client did wrong or how a connection ended. The
// client is told; to an operator they say nothing that can be acted upon.
var clientMistakes = []string{
	"Unable to authenticate the request", "Failed to convert options while estimating work", "Couldn't parse request", "Error - ", "unable to match the audience",
	"Timeout or abort while handling", "Post-timeout activity", "Failed to flush watch response", "Failed to encode watch event",
	"apiserver was unable to write", "apiserver was unable to close cleanly", "Error proxying response from backend",
	"apiserver received an error that is not an metav1.Status: &tls.", // how a connection ended while it was written to
	`apiserver received an error that is not an metav1.Status: &errors.errorString{s:"http: Handler timeout"}`,
	`apiserver received an error that is not an metav1.Status: &errors.errorString{s:"http: invalid Read on closed Body"}`,
	"Error on socket receive", "Error closing", "Unable to upgrade",
}

// upstreamLog passes on what upstream's parts say through klog: warnings and errors, and clients' mistakes and repetitions at the debug level.
type upstreamLog struct {
	slog.Handler
	repeated *repeated
}

func newUpstreamLog(h slog.Handler) upstreamLog {
	return upstreamLog{h, &repeated{said: map[string]time.Time{}}}
}

func routeKlog(log *slog.Logger) { klog.SetSlogLogger(slog.New(newUpstreamLog(log.Handler()))) }

// tries begin the messages by which upstream says, again and again, what it tries in vain: an issuer of tokens is not there, a receiver
// of audit events is not, what another server has cannot be watched.
var tries = []string{"oidc authenticator: initializing plugin", "Error in audit plugin", "Failed to watch"}

// untilSaidAgain is when what is tried in vain is said the next time: a site that is cut off must not fill its log.
const untilSaidAgain = time.Hour

// repeated remembers when something was said, but for its numbers. It remembers 64 things; what is new after these is not said.
type repeated struct {
	mu   sync.Mutex
	said map[string]time.Time
}

func (o *repeated) heard(message string) bool {
	message = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, message)
	o.mu.Lock()
	defer o.mu.Unlock()
	last, known := o.said[message]
	if time.Since(last) < untilSaidAgain || !known && len(o.said) == 64 {
		return true
	}
	o.said[message] = time.Now()
	return false
}

// vain says whether a record is about what is tried again and was said not long ago. What it lists is left out of it.
func (u upstreamLog) vain(r *slog.Record) bool {
	for _, m := range tries {
		if strings.HasPrefix(r.Message, m) {
			r.Message, _, _ = strings.Cut(r.Message, "\n")
			return u.repeated.heard(r.Message)
		}
	}
	return false
}

func (u upstreamLog) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && u.Handler.Enabled(ctx, l)
}

func (u upstreamLog) Handle(ctx context.Context, r slog.Record) error {
	if u.vain(&r) || clients(r) {
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
