package audit

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name    string
		options Options
		err     string // empty: none
	}{
		{"off", Options{}, ""},
		{"a policy and no file", Options{Policy: "p"}, "add --audit-log-path"},
		{"a policy that is not there", Options{Path: filepath.Join(dir, "l"), Policy: filepath.Join(dir, "none")}, "--audit-policy-file: "},
		{"a policy that is none", Options{Path: filepath.Join(dir, "l"), Policy: file("bad", "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Loud}]\n")}, "Loud"},
		{"a place that cannot be", Options{Path: filepath.Join(file("plain", ""), "l")}, "--audit-log-path: "},
		{"a policy", Options{Path: filepath.Join(dir, "deep/er/l"), Policy: file("good", "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Request}]\n")}, ""},
		{"no file that names a receiver", webhookTo(filepath.Join(dir, "none"), func(*Webhook) {}), "--audit-webhook-config-file: "},
		{"an unknown mode", webhookTo("f", func(w *Webhook) { w.Mode = "loud" }), `--audit-webhook-mode "loud": want batch, blocking or blocking-strict`},
		{"a mode and no receiver", webhookTo("", func(w *Webhook) { w.Mode = BlockingStrict }), "add --audit-webhook-config-file"},
		{"no pause before the next try", webhookTo("f", func(w *Webhook) { w.InitialBackoff = -time.Second }), "--audit-webhook-initial-backoff: "},
		{"no buffer", webhookTo("f", func(w *Webhook) { w.BufferSize = 0 }), "--audit-webhook-batch-buffer-size: "},
		{"batches of none", webhookTo("f", func(w *Webhook) { w.MaxSize = 0 }), "--audit-webhook-batch-max-size: "},
		{"batches larger than the buffer", webhookTo("f", func(w *Webhook) { w.MaxSize = 2000 }), "--audit-webhook-batch-max-size 2000: want no more than the 1000"},
		{"no wait", webhookTo("f", func(w *Webhook) { w.MaxWait = 0 }), "--audit-webhook-batch-max-wait: "},
		{"no batches a second", webhookTo("f", func(w *Webhook) { w.ThrottleQPS = 0 }), "--audit-webhook-batch-throttle-qps: "},
		{"no batches at once", webhookTo("f", func(w *Webhook) { w.ThrottleBurst = 0 }), "--audit-webhook-batch-throttle-burst: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Open(tt.options, slog.New(slog.DiscardHandler))
			if err := errors.Join(l.Close(), l.Close()); err != nil {
				t.Error(err)
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("%v, want %q", err, tt.err)
			}
		})
	}
}

func TestChangesAreWrittenByDefault(t *testing.T) {
	l, err := Open(Options{Path: filepath.Join(t.TempDir(), "l")}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for request, want := range map[string]bool{"get pods/exec": true, "get nodes/proxy": true, "get pods/log": false, "create pods": true, "delete secrets": true, "get pods": false, "watch pods": false, "update leases coordination.k8s.io": false, "create events": false,
		"create selfsubjectaccessreviews authorization.k8s.io": false, "create rolebindings rbac.authorization.k8s.io": true} {
		verb, rest, _ := strings.Cut(request, " ")
		resource, group, _ := strings.Cut(rest, " ")
		resource, sub, _ := strings.Cut(resource, "/")
		got := l.policy.EvaluatePolicyRule(authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "u"}, Verb: verb, Resource: resource, Subresource: sub, APIGroup: group, APIVersion: "v1", ResourceRequest: true})
		if (got.Level != "None") != want {
			t.Errorf("%s is written at the level %s", request, got.Level)
		}
	}
}

// disk stands in for the file: it remembers each write, and can be full.
type disk struct {
	mu     sync.Mutex
	writes []string
	full   bool
	room   int // bytes that a full one still takes
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		if d.room > 0 {
			d.writes, d.room = append(d.writes, string(p[:d.room])), 0
			return len(d.writes[len(d.writes)-1]), errors.New("no space left on device")
		}
		return 0, errors.New("no space left on device")
	}
	d.writes = append(d.writes, string(p))
	return len(p), nil
}

func (d *disk) Close() error { return nil }

func (d *disk) written() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.writes)
}

func TestEventsAreWrittenInGroups(t *testing.T) {
	d := &disk{}
	g := newGrouped(d, slog.New(slog.DiscardHandler))
	g.after = 50 * time.Millisecond
	for range 10 {
		io.WriteString(g, "one\n")
	}
	for end := time.Now().Add(5 * time.Second); len(d.written()) == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if w := d.written(); len(w) != 1 || w[0] != strings.Repeat("one\n", 10) {
		t.Errorf("written %q", w)
	}
	g.after = time.Hour
	io.WriteString(g, strings.Repeat("x", flushAt)+"\n") // too much to hold back
	io.WriteString(g, "last\n")
	if w := d.written(); len(w) != 2 {
		t.Errorf("%d writes", len(w))
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	io.WriteString(g, "later\n")
	if w := d.written(); len(w) != 4 || w[2] != "last\n" || w[3] != "later\n" {
		t.Errorf("%d writes", len(w))
	}
}

// A line that a full disk took half of is not the beginning of the next.
func TestTornLine(t *testing.T) {
	d := &disk{full: true, room: 6}
	g := newGrouped(d, slog.New(slog.DiscardHandler))
	g.after = time.Hour
	flush := func() { g.mu.Lock(); defer g.mu.Unlock(); g.flush() }
	io.WriteString(g, "one\ntwo\n")
	flush()
	d.full = false
	io.WriteString(g, "three\n")
	flush()
	if got := strings.Join(d.written(), ""); got != "one\ntw\nthree\n" {
		t.Errorf("%q", got)
	}
}

func TestAFullDiskIsSaidOnce(t *testing.T) {
	d, said := &disk{full: true}, &strings.Builder{}
	g := newGrouped(d, slog.New(slog.NewTextHandler(said, nil)))
	g.after = time.Hour
	flush := func() { g.mu.Lock(); defer g.mu.Unlock(); g.flush() }
	for range 3 {
		if n, err := io.WriteString(g, "one\ntwo\n"); n != 8 || err != nil {
			t.Errorf("%d %v", n, err)
		}
		flush()
	}
	d.full = false
	io.WriteString(g, "three\n")
	flush()
	if n := strings.Count(said.String(), "no space left"); n != 1 {
		t.Errorf("said %d times: %s", n, said)
	}
	if !strings.Contains(said.String(), "6 events") || !slices.Equal(d.written(), []string{"three\n"}) {
		t.Errorf("written %q, said %s", d.written(), said)
	}
}
