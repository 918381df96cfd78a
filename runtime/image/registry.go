package image

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// source is a repository at a registry, or at a mirror of it.
type source struct {
	host, repository string
	client           *http.Client
	base             *http.Transport
}

const manifestTypes = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

// hosts lists where an image may be had: mirrors first.
func (s *Store) hosts(registry string) []string {
	hosts := append(slices.Clone(s.opts.Mirrors[registry]), s.opts.Mirrors["*"]...)
	return append(hosts, registry)
}

// plainAllowed says whether a host may be spoken to without TLS, or with a certificate that nobody vouches for.
func (s *Store) plainAllowed(host string) bool {
	bare := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		bare = h
	}
	if ip := net.ParseIP(strings.Trim(bare, "[]")); bare == "localhost" || (ip != nil && ip.IsLoopback()) {
		return true
	}
	return slices.Contains(s.opts.Insecure, host) || slices.Contains(s.opts.Insecure, bare)
}

// guard keeps a library from falling back to plain HTTP where the operator has not allowed it.
type guard struct {
	next  http.RoundTripper
	allow func(host string) bool
}

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.allow(r.URL.Host) {
		return nil, fmt.Errorf("%s does not speak HTTPS; if that is meant, name it as an insecure registry", r.URL.Host)
	}
	return g.next.RoundTrip(r)
}

// connect finds out how a registry wants to be spoken to.
func (s *Store) connect(ctx context.Context, host string, n Name, auth Auth) (*source, error) {
	scheme := "https"
	if at := strings.Index(host, "://"); at >= 0 { // a mirror may be written as a URL
		scheme, host = host[:at], strings.TrimSuffix(host[at+3:], "/")
	}
	repository := n.Repository
	api := host
	if host == "docker.io" {
		api = "index.docker.io"
	}
	plain := scheme == "http" || s.plainAllowed(host)
	options := []name.Option{name.WeakValidation}
	if plain {
		options = append(options, name.Insecure)
	}
	repo, err := name.NewRepository(api+"/"+repository, options...)
	if err != nil {
		return nil, err
	}
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 20 * time.Second, ResponseHeaderTimeout: 60 * time.Second,
		DialContext:     (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
		IdleConnTimeout: 5 * time.Second, MaxIdleConnsPerHost: parallel,
	}
	if s.opts.TLS != nil {
		base.TLSClientConfig = s.opts.TLS.Clone()
	}
	if plain {
		if base.TLSClientConfig == nil {
			base.TLSClientConfig = &tls.Config{}
		}
		base.TLSClientConfig.InsecureSkipVerify = true // the operator said so, by name
	}
	var who authn.Authenticator = authn.Anonymous
	if auth != (Auth{}) {
		who = authn.FromConfig(authn.AuthConfig{Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken})
	}
	allow := func(h string) bool { return (plain && h == host) || s.plainAllowed(h) }
	rt, err := transport.NewWithContext(ctx, repo.Registry, who, guard{base, allow}, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		base.CloseIdleConnections()
		return nil, fmt.Errorf("registry %s: %w", host, err)
	}
	return &source{host: repo.RegistryStr(), repository: repo.RepositoryStr(), client: &http.Client{Transport: rt}, base: base}, nil
}

func (src *source) close() { src.base.CloseIdleConnections() }

func (src *source) request(ctx context.Context, method, what, ref string) (*http.Request, error) {
	url := fmt.Sprintf("https://%s/v2/%s/%s/%s", src.host, src.repository, what, ref) // the transport below knows if it is not
	return http.NewRequestWithContext(ctx, method, url, nil)
}

// manifest fetches a manifest by tag or digest, and returns it with its digest.
func (src *source) manifest(ctx context.Context, ref string) ([]byte, string, error) {
	req, err := src.request(ctx, http.MethodGet, "manifests", ref)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", manifestTypes)
	resp, err := src.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, "", err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(b)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	if validDigest(ref) && ref != digest {
		return nil, "", fmt.Errorf("the registry answered with another manifest than %s", ref)
	}
	return b, digest, nil
}

// digest asks for the digest of a tag without fetching anything; "" when the registry does not say.
func (src *source) digest(ctx context.Context, ref string) (string, error) {
	req, err := src.request(ctx, http.MethodHead, "manifests", ref)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", manifestTypes)
	resp, err := src.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", nil
	}
	return resp.Header.Get("Docker-Content-Digest"), nil
}

// small fetches a blob into memory and checks its digest.
func (src *source) small(ctx context.Context, d descriptor) ([]byte, error) {
	req, err := src.request(ctx, http.MethodGet, "blobs", d.Digest)
	if err != nil {
		return nil, err
	}
	resp, err := src.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); "sha256:"+hex.EncodeToString(sum[:]) != d.Digest {
		return nil, fmt.Errorf("blob %s: the registry sent something else", d.Digest)
	}
	return b, nil
}

// notFound says whether a registry knows nothing of an image, or does not let us see it.
func notFound(err error) bool {
	var t *transport.Error
	return errors.As(err, &t) && (t.StatusCode == http.StatusNotFound || t.StatusCode == http.StatusUnauthorized || t.StatusCode == http.StatusForbidden)
}

// unreachable says whether nobody answered: no name, no route, a refused connection, a time-out.
func unreachable(err error) bool {
	var t *transport.Error
	var network net.Error
	return !errors.As(err, &t) && errors.As(err, &network)
}

// permanent says whether asking again is of no use.
func permanent(err error) bool {
	var t *transport.Error
	if errors.As(err, &t) {
		return t.StatusCode >= 400 && t.StatusCode < 500 && t.StatusCode != http.StatusTooManyRequests && t.StatusCode != http.StatusRequestTimeout &&
			t.StatusCode != http.StatusRequestedRangeNotSatisfiable
	}
	return false
}
