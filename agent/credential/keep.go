// Package credential keeps what this node's pods are given to prove who they are: service account tokens, and certificates of signers
// that the cluster has (KEP-4317). They are bound to the pod, asked for with the node's certificate, and renewed before they end.
//
// Invariant: what was had is in the agent's database, so that a pod starts after a reboot with no link. A token is renewed when four
// fifths of its life, or a day, are over, a certificate when its signer says; an old one is used for as long as no new one can be had.
//
//	c, err := credential.New(credential.Config{Store: db, Client: client, URL: "https://api"})
//	token, err := c.Token(ctx, pod, projection)
//	key, chain, err := c.Certificate(ctx, pod, projection)
package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/state"
)

// Store keeps credentials.
type Store interface {
	Load(bucket string) (map[string][]byte, error)
	Queue(bucket, key string, value []byte)
}

// Config says where credentials come from.
type Config struct {
	Store  Store
	Client *http.Client // reaches the API as this node
	URL    string       // of the API
	Node   string       // this one
	// Refresh is called with the UID of a pod one of whose credentials should be renewed.
	Refresh func(uid types.UID)
	Logger  *slog.Logger
}

// entry is a credential as it lies in the database.
type entry struct {
	Text    string    `json:"token"` // a token, or a private key with its certificates, PEM; the name in the database is from before there were these
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	Renew   time.Time `json:"renew,omitzero"` // where the issuer says so
}

// renewAt is when a new one is asked for.
func (e entry) renewAt() time.Time {
	if !e.Renew.IsZero() {
		return e.Renew
	}
	at := e.Issued.Add(e.Expires.Sub(e.Issued) * 4 / 5)
	if day := e.Issued.Add(24 * time.Hour); day.Before(at) {
		return day
	}
	return at
}

// Credentials are those of all pods, by keys that begin with the pod's UID.
type Credentials struct {
	Config
	mu      sync.Mutex
	entries map[string]entry
	busy    map[string]chan struct{} // a request for the same one is under way
	wake    chan struct{}
	begin   chan struct{}       // something is pursued that has not begun
	pursued map[string]*pursuit // certificates
}

// New loads what was kept.
func New(c Config) (*Credentials, error) {
	rows, err := c.Store.Load(state.Credentials)
	if err != nil {
		return nil, fmt.Errorf("load the pods' credentials: %w", err)
	}
	t := &Credentials{Config: c, entries: map[string]entry{}, busy: map[string]chan struct{}{}, wake: make(chan struct{}, 1), begin: make(chan struct{}, 1), pursued: map[string]*pursuit{}}
	for key, b := range rows {
		var e entry
		if json.Unmarshal(b, &e) == nil {
			t.entries[key] = e
		}
	}
	return t, nil
}

// get returns a credential of a pod, and requests it when there is none or it is to be renewed.
func (t *Credentials) get(ctx context.Context, pod *corev1.Pod, k string, request func(context.Context) (entry, error)) (string, error) {
	for {
		t.mu.Lock()
		e, have := t.entries[k]
		if have && time.Now().Before(e.renewAt()) {
			t.mu.Unlock()
			return e.Text, nil
		}
		other := t.busy[k]
		if other == nil {
			break
		}
		t.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if e, ok := t.entry(k); ok && time.Now().Before(e.Expires) {
			return e.Text, nil
		}
	}
	done := make(chan struct{})
	t.busy[k] = done
	old, have := t.entries[k]
	t.mu.Unlock()
	fresh, err := request(ctx)
	t.mu.Lock()
	delete(t.busy, k)
	if err == nil {
		t.keep(k, fresh)
	}
	t.mu.Unlock()
	close(done)
	if err != nil {
		// Without a link the server cannot refuse it either; a new one comes with the link.
		if have {
			t.Logger.Debug("a credential could not be renewed; the old one stays", "pod", pod.Name, "namespace", pod.Namespace, "err", err)
			return old.Text, nil
		}
		return "", err
	}
	t.Again()
	return fresh.Text, nil
}

// keep is called with the lock held.
func (t *Credentials) keep(k string, e entry) {
	t.entries[k] = e
	if b, err := json.Marshal(e); err == nil {
		t.Store.Queue(state.Credentials, k, b)
	}
}

func (t *Credentials) entry(k string) (entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[k]
	return e, ok
}

const requestTimeout = 15 * time.Second

// call asks the API for an answer in JSON; body, if any, is sent as such.
func (t *Credentials) call(ctx context.Context, method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, t.URL+path, in)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	res, err := t.Client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return refusal{res.StatusCode, message(res.Status, b)}
	}
	return json.Unmarshal(b, answer)
}

// refusal is what the server said, in its words.
type refusal struct {
	code    int
	message string
}

func (r refusal) Error() string { return r.message }

func message(status string, body []byte) string {
	var s struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &s) == nil && s.Message != "" {
		return s.Message
	}
	return status
}

// Forget drops the credentials of a pod that is gone.
func (t *Credentials) Forget(uid types.UID) {
	t.Sweep(func(other types.UID) bool { return other != uid })
}

// Sweep drops the credentials of all pods but those given.
func (t *Credentials) Sweep(keep func(types.UID) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.entries {
		if !keep(podOf(k)) {
			delete(t.entries, k)
			t.Store.Queue(state.Credentials, k, nil)
		}
	}
	for k, p := range t.pursued {
		if !keep(podOf(k)) {
			delete(t.pursued, k)
			if p.stop != nil {
				p.stop()
			}
		}
	}
}

// podOf is the UID of the pod that a credential is of, by its key.
func podOf(k string) types.UID {
	uid, _, _ := strings.Cut(k, "/")
	return types.UID(uid)
}

// retry is how long one that could not be renewed waits to be tried again.
const retry = time.Minute

// Run asks for certificates and has credentials renewed in time, until ctx is done.
func (t *Credentials) Run(ctx context.Context) {
	var pursuits sync.WaitGroup
	defer pursuits.Wait()
	for {
		t.pursueAll(ctx, &pursuits)
		next, due := t.due(time.Now())
		for uid := range due {
			t.Refresh(uid)
		}
		wait := 24 * time.Hour // none is had
		if !next.IsZero() {
			wait = max(time.Until(next), retry)
		}
		timer := time.NewTimer(wait)
		for looks := true; looks; {
			looks = false
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-t.begin:
				t.pursueAll(ctx, &pursuits)
				looks = true
			case <-t.wake:
			case <-timer.C:
			}
		}
		timer.Stop()
	}
}

// Again tries what could not be renewed, now: the server can be reached again. What a site had may have ended long ago.
func (t *Credentials) Again() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// due is which pods' credentials are to be renewed, and when to look again.
func (t *Credentials) due(now time.Time) (next time.Time, due map[types.UID]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	due = map[types.UID]bool{}
	for k, e := range t.entries {
		at := e.renewAt()
		if !at.After(now) {
			due[podOf(k)] = true
			at = now.Add(retry)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next, due
}
