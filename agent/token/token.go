// Package token keeps the service account tokens that this node's pods are given: bound to the pod,
// asked for with the node's certificate, and renewed before they end.
//
// Invariant: a token that was had is in the agent's database, so that a pod starts after a reboot
// with no link; one is renewed when four fifths of its life, or a day, are over, and an old one is
// used for as long as no new one can be had.
//
//	t, err := token.New(token.Config{Store: db, Client: client, URL: "https://api"})
//	s, err := t.Get(ctx, pod, projection)
package token

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

// Store keeps tokens.
type Store interface {
	Load(bucket string) (map[string][]byte, error)
	Queue(bucket, key string, value []byte)
}

// Config says where tokens come from.
type Config struct {
	Store  Store
	Client *http.Client // reaches the API as this node
	URL    string       // of the API
	// Refresh is called with the UID of a pod one of whose tokens should be renewed.
	Refresh func(uid types.UID)
	Logger  *slog.Logger
}

// entry is a token as it lies in the database.
type entry struct {
	Token   string    `json:"token"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
}

// renewAt is when a new one is asked for.
func (e entry) renewAt() time.Time {
	at := e.Issued.Add(e.Expires.Sub(e.Issued) * 4 / 5)
	if day := e.Issued.Add(24 * time.Hour); day.Before(at) {
		return day
	}
	return at
}

// Tokens are the tokens of all pods.
type Tokens struct {
	Config
	mu      sync.Mutex
	entries map[string]entry
	busy    map[string]chan struct{} // a request for the same token is under way
	wake    chan struct{}
}

// New loads what was kept.
func New(c Config) (*Tokens, error) {
	rows, err := c.Store.Load(state.Tokens)
	if err != nil {
		return nil, fmt.Errorf("load the pods' tokens: %w", err)
	}
	t := &Tokens{Config: c, entries: map[string]entry{}, busy: map[string]chan struct{}{}, wake: make(chan struct{}, 1)}
	for key, b := range rows {
		var e entry
		if json.Unmarshal(b, &e) == nil {
			t.entries[key] = e
		}
	}
	return t, nil
}

// defaultSeconds is the life of a token for which none is asked.
const defaultSeconds = 3600

func key(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) string {
	return strings.Join([]string{string(pod.UID), pod.Spec.ServiceAccountName, p.Audience, fmt.Sprint(lifetime(p))}, "/")
}

func lifetime(p *corev1.ServiceAccountTokenProjection) int64 {
	if p.ExpirationSeconds != nil {
		return *p.ExpirationSeconds
	}
	return defaultSeconds
}

// Get returns the pod's token for a projection.
func (t *Tokens) Get(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	k := key(pod, p)
	for {
		t.mu.Lock()
		e, have := t.entries[k]
		if have && time.Now().Before(e.renewAt()) {
			t.mu.Unlock()
			return e.Token, nil
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
			return e.Token, nil
		}
	}
	done := make(chan struct{})
	t.busy[k] = done
	old, have := t.entries[k]
	t.mu.Unlock()
	fresh, err := t.request(ctx, pod, p)
	t.mu.Lock()
	delete(t.busy, k)
	if err == nil {
		t.entries[k] = fresh
	}
	t.mu.Unlock()
	close(done)
	if err != nil {
		// Without a link the server cannot refuse it either; a new one comes with the link.
		if have {
			t.Logger.Debug("a token could not be renewed; the old one stays", "pod", pod.Name, "namespace", pod.Namespace, "err", err)
			return old.Token, nil
		}
		return "", err
	}
	if b, err := json.Marshal(fresh); err == nil {
		t.Store.Queue(state.Tokens, k, b)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return fresh.Token, nil
}

func (t *Tokens) entry(k string) (entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ok := t.entries[k]
	return e, ok
}

// The parts of an authentication/v1 TokenRequest that are spoken of.
type tokenRequest struct {
	Kind       string       `json:"kind"`
	APIVersion string       `json:"apiVersion"`
	Spec       tokenSpec    `json:"spec"`
	Status     *tokenStatus `json:"status,omitempty"`
}

type tokenSpec struct {
	Audiences         []string `json:"audiences,omitempty"`
	ExpirationSeconds int64    `json:"expirationSeconds"`
	BoundObjectRef    boundRef `json:"boundObjectRef"`
}

type boundRef struct {
	Kind       string    `json:"kind"`
	APIVersion string    `json:"apiVersion"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
}

type tokenStatus struct {
	Token               string    `json:"token"`
	ExpirationTimestamp time.Time `json:"expirationTimestamp"`
}

const requestTimeout = 15 * time.Second

func (t *Tokens) request(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (entry, error) {
	fail := func(err error) (entry, error) {
		return entry{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := tokenRequest{Kind: "TokenRequest", APIVersion: "authentication.k8s.io/v1", Spec: tokenSpec{
		ExpirationSeconds: lifetime(p), BoundObjectRef: boundRef{"Pod", "v1", pod.Name, pod.UID},
	}}
	if p.Audience != "" {
		req.Spec.Audiences = []string{p.Audience}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return fail(err)
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	url := fmt.Sprintf("%s/api/v1/namespaces/%s/serviceaccounts/%s/token", t.URL, pod.Namespace, account)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	issued := time.Now()
	res, err := t.Client.Do(r)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fail(err)
	}
	if res.StatusCode/100 != 2 {
		return fail(refusal(res.Status, b))
	}
	var got tokenRequest
	if err := json.Unmarshal(b, &got); err != nil {
		return fail(err)
	}
	if got.Status == nil || got.Status.Token == "" {
		return fail(errors.New("the server's answer holds no token"))
	}
	return entry{Token: got.Status.Token, Issued: issued, Expires: got.Status.ExpirationTimestamp}, nil
}

// refusal is what the server said, in its words.
func refusal(status string, body []byte) error {
	var s struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &s) == nil && s.Message != "" {
		return errors.New(s.Message)
	}
	return errors.New(status)
}

// Forget drops the tokens of pods that are gone.
func (t *Tokens) Forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.entries {
		if strings.HasPrefix(k, string(uid)+"/") {
			delete(t.entries, k)
			t.Store.Queue(state.Tokens, k, nil)
		}
	}
}

// Sweep drops the tokens of all pods but those given.
func (t *Tokens) Sweep(keep func(types.UID) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.entries {
		uid, _, _ := strings.Cut(k, "/")
		if !keep(types.UID(uid)) {
			delete(t.entries, k)
			t.Store.Queue(state.Tokens, k, nil)
		}
	}
}

// retry is how long a token that could not be renewed waits to be tried again.
const retry = time.Minute

// Run has tokens renewed in time, until ctx is done.
func (t *Tokens) Run(ctx context.Context) {
	for {
		next, due := t.due(time.Now())
		for uid := range due {
			t.Refresh(uid)
		}
		wait := 24 * time.Hour // none is had
		if !next.IsZero() {
			wait = max(time.Until(next), retry)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-t.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// due is which pods' tokens are to be renewed, and when to look again.
func (t *Tokens) due(now time.Time) (next time.Time, due map[types.UID]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	due = map[types.UID]bool{}
	for k, e := range t.entries {
		at := e.renewAt()
		if !at.After(now) {
			uid, _, _ := strings.Cut(k, "/")
			due[types.UID(uid)] = true
			at = now.Add(retry)
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next, due
}
