package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

type memory struct {
	mu   sync.Mutex
	rows map[string][]byte
}

func (m *memory) Load(string) (map[string][]byte, error) { return m.rows, nil }
func (m *memory) Queue(_, key string, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value == nil {
		delete(m.rows, key)
	} else {
		m.rows[key] = value
	}
}

type server struct {
	*httptest.Server
	count atomic.Int32
	down  atomic.Bool
	life  time.Duration
	last  tokenRequest
	path  string
}

func start(t *testing.T, life time.Duration) *server {
	s := &server{life: life}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			w.WriteHeader(403)
			io.WriteString(w, `{"kind":"Status","message":"pod \"web\" not found"}`)
			return
		}
		time.Sleep(10 * time.Millisecond)
		s.path = r.URL.Path
		json.NewDecoder(r.Body).Decode(&s.last)
		n := s.count.Add(1)
		w.WriteHeader(201)
		fmt.Fprintf(w, `{"status":{"token":"t%d","expirationTimestamp":%q}}`, n, time.Now().Add(s.life).UTC().Format(time.RFC3339Nano))
	}))
	t.Cleanup(s.Close)
	return s
}

func open(t *testing.T, s *server, m *memory) *Credentials {
	tokens, err := New(Config{Store: m, Client: s.Client(), URL: s.URL, Refresh: func(types.UID) {}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

var pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1"}, Spec: corev1.PodSpec{ServiceAccountName: "robot"}}

func TestTokenIsBoundKeptAndShared(t *testing.T) {
	s, m := start(t, time.Hour), &memory{rows: map[string][]byte{}}
	tokens := open(t, s, m)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got, err := tokens.Token(context.Background(), pod, &corev1.ServiceAccountTokenProjection{Audience: "vault"}); err != nil || got != "t1" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	wg.Wait()
	if s.count.Load() != 1 {
		t.Errorf("%d requests", s.count.Load())
	}
	if s.path != "/api/v1/namespaces/shop/serviceaccounts/robot/token" || s.last.Spec.BoundObjectRef != (boundRef{"Pod", "v1", "web", "u1"}) || s.last.Spec.Audiences[0] != "vault" || s.last.Spec.ExpirationSeconds != 3600 {
		t.Errorf("%s %+v", s.path, s.last)
	}
	s.down.Store(true) // a reboot with no link
	if got, err := open(t, s, m).Token(context.Background(), pod, &corev1.ServiceAccountTokenProjection{Audience: "vault"}); err != nil || got != "t1" {
		t.Errorf("after a restart: %q %v", got, err)
	}
}

func TestOldTokenIsUsedWhileNoneCanBeHad(t *testing.T) {
	s, m := start(t, 50*time.Millisecond), &memory{rows: map[string][]byte{}}
	tokens := open(t, s, m)
	p := &corev1.ServiceAccountTokenProjection{}
	if _, err := tokens.Token(context.Background(), pod, p); err != nil {
		t.Fatal(err)
	}
	time.Sleep(60 * time.Millisecond)
	s.down.Store(true)
	if got, err := tokens.Token(context.Background(), pod, p); err != nil || got != "t1" {
		t.Errorf("%q %v", got, err)
	}
	s.down.Store(false)
	if got, err := tokens.Token(context.Background(), pod, p); err != nil || got != "t2" {
		t.Errorf("%q %v", got, err)
	}
	tokens.Forget("u1")
	if len(m.rows) != 0 {
		t.Errorf("left %v", m.rows)
	}
}

// TestRenewedWithTheLink: a token that ended while the server was away is asked for when it is back, not up to a minute later.
func TestRenewedWithTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refreshed := 0
		c, err := New(Config{Store: &memory{}, Refresh: func(types.UID) { refreshed++ }, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c.entries["uid/default//600"] = entry{Text: "old", Issued: time.Now().Add(-time.Hour), Expires: time.Now().Add(-time.Minute)}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.Run(ctx)
		synctest.Wait()
		c.Again()
		synctest.Wait()
		if refreshed != 2 {
			t.Errorf("asked for %d times, want 2: at first, and with the link", refreshed)
		}
	})
}

func TestServersWords(t *testing.T) {
	s := start(t, time.Hour)
	s.down.Store(true)
	_, err := open(t, s, &memory{rows: map[string][]byte{}}).Token(context.Background(), pod, &corev1.ServiceAccountTokenProjection{})
	if err == nil || err.Error() != `failed to fetch token: pod "web" not found` {
		t.Error(err)
	}
}

func TestRenewal(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		life time.Duration
		want time.Duration
	}{{time.Hour, 48 * time.Minute}, {365 * 24 * time.Hour, 24 * time.Hour}} {
		if got := (entry{Issued: now, Expires: now.Add(c.life)}).renewAt().Sub(now); got != c.want {
			t.Errorf("life %v: renewed after %v, want %v", c.life, got, c.want)
		}
	}
}
