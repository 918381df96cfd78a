package aggregator

import (
	"context"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"bramble.dev/server/api/openapi"
)

// Documents gives the OpenAPI documents of other servers, asked for when somebody asks for them. A server that does not answer adds
// nothing. Of one that has none of version 3, as before Kubernetes 1.24, they are made from its document of version 2, as upstream does.
type Documents struct{ *Server }

var _ openapi.Custom = Documents{}

// index is what a server said of its documents of version 3.
type index struct {
	asked time.Time
	at    string // where that of the group version is, with its hash; empty: nowhere
	old   bool   // it has none: it is made from what lies there, of version 2
}

// documented gives the remotes that answer, by the path of their document.
func (d Documents) documented(ctx context.Context) (map[string]*remote, error) {
	r, err := d.current(ctx)
	if r == nil || err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := map[string]*remote{}
	for _, m := range r.remotes {
		if !m.builtIn && m.available.Load() {
			out["apis/"+m.gv.String()] = m
		}
	}
	return out, nil
}

// each asks all servers at once, and returns when all have answered or none is waited for any more.
func each(ctx context.Context, all map[string]*remote, ask func(ctx context.Context, path string, m *remote)) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var wait sync.WaitGroup
	for path, m := range all {
		wait.Go(func() { ask(ctx, path, m) })
	}
	wait.Wait()
}

// Marks names each document by the address that its server gives it, which has a hash of it.
func (d Documents) Marks(ctx context.Context) (map[string]string, error) {
	all, err := d.documented(ctx)
	var mu sync.Mutex
	out := map[string]string{}
	each(ctx, all, func(ctx context.Context, path string, m *remote) {
		if at := m.document(ctx).at; at != "" {
			mu.Lock()
			defer mu.Unlock()
			out[path] = at
		}
	})
	return out, err
}

// V3 passes the document of a group version on.
func (d Documents) V3(ctx context.Context, path string) ([]byte, error) {
	all, err := d.documented(ctx)
	if err != nil {
		return nil, err
	}
	m := all[path]
	if m == nil {
		return nil, fmt.Errorf("nothing is published as %s", path)
	}
	i := m.document(ctx)
	if i.old {
		text, _, err := m.converted(ctx)
		return text, err
	}
	at, err := url.Parse(i.at)
	if err == nil && at.Path == "" {
		err = fmt.Errorf("nothing is published as %s", path)
	}
	if err != nil {
		return nil, err
	}
	return m.get(ctx, at.Path, at.RawQuery)
}

// V2 gives what the servers' documents of version 2 say of their group versions.
func (d Documents) V2(ctx context.Context) (openapi.Parts, error) {
	parts := openapi.NewParts()
	all, err := d.documented(ctx)
	if err != nil {
		return parts, err
	}
	var mu sync.Mutex
	each(ctx, all, func(ctx context.Context, path string, m *remote) {
		if m.document(ctx).at == "" {
			return
		}
		one, err := m.parts(ctx, path)
		if err != nil {
			m.r.c.Logger.Debug("an aggregated API has no OpenAPI document", "apiService", m.name, "err", err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		parts.Add(one)
	})
	return parts, nil
}

// document tells where the server has the document of the group version, as it said within the last minute.
func (m *remote) document(ctx context.Context) index {
	m.mu.Lock()
	known := m.index
	m.mu.Unlock()
	if time.Since(known.asked) < recheck {
		return known
	}
	found, err := m.look(ctx)
	if errors.Is(ctx.Err(), context.Canceled) {
		return index{} // who asked has gone: that says nothing of the server
	}
	if err != nil {
		m.r.c.Logger.Debug("an aggregated API has no OpenAPI documents", "apiService", m.name, "err", err)
	}
	found.asked = time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index = found
	return found
}

// look asks the server for its index of version 3. One that does not know what that is has documents of version 2 alone.
func (m *remote) look(ctx context.Context) (index, error) {
	var list struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	text, err := m.get(ctx, "/openapi/v3", "")
	var u *unanswered
	if errors.As(err, &u) && u.code == http.StatusNotFound {
		_, hash, err := m.converted(ctx)
		if err != nil {
			return index{}, err
		}
		return index{at: "/openapi/v2?hash=" + hash, old: true}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	return index{at: list.Paths["apis/"+m.gv.String()].ServerRelativeURL}, err
}

// converted is the server's document of version 2 in the form of version 3, with a hash of it. It is in no memory: it is asked for anew.
func (m *remote) converted(ctx context.Context) (text []byte, hash string, err error) {
	text, err = m.get(ctx, "/openapi/v2", "")
	if err != nil {
		return nil, "", err
	}
	hash = fmt.Sprintf("%X", sha512.Sum512(text))
	text, err = convert(text)
	return text, hash, err
}

// convert uses upstream's converter, which takes every document for complete and panics where one is not: another server's must not end
// this one.
func convert(v2 []byte) (v3 []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its document of version 2 is not complete: %v", p)
		}
	}()
	var old spec.Swagger
	if err := json.Unmarshal(v2, &old); err != nil {
		return nil, fmt.Errorf("its document of version 2: %w", err)
	}
	return json.Marshal(openapiconv.ConvertV2ToV3(&old))
}

// parts takes from the server's document of version 2 what belongs to the group version. Definitions that all kinds share are in ours.
// What clients could not read would spoil the whole document for them, and is an error.
func (m *remote) parts(ctx context.Context, path string) (openapi.Parts, error) {
	var parts openapi.Parts
	text, err := m.get(ctx, "/openapi/v2", "")
	if err != nil {
		return parts, err
	}
	if err := json.Unmarshal(text, &parts); err != nil {
		return parts, err
	}
	maps.DeleteFunc(parts.Paths, func(p string, _ json.RawMessage) bool { return !strings.HasPrefix(p, "/"+path+"/") })
	maps.DeleteFunc(parts.Definitions, func(name string, _ json.RawMessage) bool {
		return strings.HasPrefix(name, "io.k8s.api") || strings.HasPrefix(name, "io.k8s.kube-aggregator.")
	})
	return parts, parts.Check()
}
