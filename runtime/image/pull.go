package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"bramble.dev/runtime/snapshot"
)

// PullOptions say how an image is brought.
type PullOptions struct {
	Auth     []Auth    // tried in order; none is anonymous
	Platform *Platform // nil is the host's
	Policy   string    // Always (or ""), IfNotPresent, Never
	Progress func(Progress)
}

// Progress is how far a pull is.
type Progress struct {
	Layers, Done int   // that had to be brought
	Bytes, Total int64 // downloaded
}

// ErrNeverPull says that an image is not here and must not be pulled.
var ErrNeverPull = errors.New("the image is not present with pull policy of Never")

// NotFoundError says that no registry has the image, or none lets us see it.
type NotFoundError struct {
	Name string
	Err  error
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("image %s: not found, or not to be seen without (other) credentials: %v", e.Name, e.Err)
}

func (e *NotFoundError) Unwrap() error { return e.Err }

// UnreachableError says that neither the registry of an image nor a mirror answered: nobody has said that the image is gone, or that
// it may not be had.
type UnreachableError struct {
	Name string
	Err  error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("pull image %s: %v", e.Name, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Pull brings an image from its registry or a mirror.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions) (Image, error) {
	if img, ok := s.Resolve(ref); o.Policy == "IfNotPresent" || o.Policy == "Never" {
		if ok {
			return img, nil
		}
		if o.Policy == "Never" {
			return Image{}, fmt.Errorf("image %s: %w", ref, ErrNeverPull)
		}
	}
	n, err := ParseName(ref)
	if err != nil {
		return Image{}, err
	}
	unlock, err := s.layers.lock(ctx, "pull "+n.String()) // the second of two pulls finds what the first has brought
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	s.busy.RLock()
	img, err := s.pull(ctx, n, o)
	s.busy.RUnlock()
	return img, err
}

func (s *Store) pull(ctx context.Context, n Name, o PullOptions) (Image, error) {
	auths := append(slices.Clone(o.Auth), Auth{})
	var failed []error
	missing, reached := true, false
	for _, host := range s.hosts(n.Registry) {
		for _, auth := range auths {
			if host != n.Registry && auth != (Auth{}) {
				continue // credentials are for the registry that the image names
			}
			img, err := s.pullFrom(ctx, host, n, auth, o)
			if err == nil {
				return img, nil
			}
			if ctx.Err() != nil {
				return Image{}, context.Cause(ctx)
			}
			failed = append(failed, err)
			reached = reached || !unreachable(err)
			var wrong *PlatformError
			if errors.As(err, &wrong) {
				wrong.Name = n.String()
				if o.Platform == nil {
					s.learn(wrong.Name, wrong.Have)
				}
				return Image{}, err
			}
			if !notFound(err) {
				missing = host != n.Registry && missing
				break // other credentials would not help
			}
		}
	}
	err := errors.Join(failed...)
	switch {
	case !reached:
		return Image{}, s.explainUnfit(n, &UnreachableError{n.String(), err})
	case missing:
		return Image{}, s.explainUnfit(n, &NotFoundError{n.String(), err})
	}
	return Image{}, s.explainUnfit(n, fmt.Errorf("pull image %s: %w", n, err))
}

func (s *Store) pullFrom(ctx context.Context, host string, n Name, auth Auth, o PullOptions) (Image, error) {
	src, err := s.connect(ctx, host, n, auth)
	if err != nil {
		return Image{}, err
	}
	defer src.close()
	ref := n.Digest
	if ref == "" {
		ref = n.Tag
	}
	if img, ok := s.unchanged(ctx, src, n, ref, o.Platform); ok {
		return s.had(img, n, auth), nil
	}
	d, err := src.describe(ctx, ref, o.Platform)
	if err != nil {
		return Image{}, err
	}
	c := candidate{id: d.manifest.Config.Digest, config: d.config, digests: []string{n.repository() + "@" + d.top},
		access: []Access{opened(n, auth)}}
	if n.Tag != "" {
		c.names = []string{n.String()}
	}
	s.learn(n.String(), d.offered)
	staged, err := s.layersOf(ctx, src, d.manifest, d.config, o.Progress)
	defer func() {
		for _, st := range staged {
			st.Discard()
		}
	}()
	if err != nil {
		return Image{}, err
	}
	return s.install(ctx, c, staged)
}

// unchanged spares a pull when the registry's tag still means what is here.
func (s *Store) unchanged(ctx context.Context, src *source, n Name, ref string, p *Platform) (Image, bool) {
	img, ok := s.Resolve(n.String())
	if !ok || len(img.Digests) == 0 || p != nil || Host().best([]Platform{img.Platform}) < 0 {
		return Image{}, false
	}
	d, err := src.digest(ctx, ref)
	if err != nil || d == "" || !slices.Contains(img.Digests, n.repository()+"@"+d) {
		return Image{}, false
	}
	s.still(n.String())
	return img, true
}

// described is what a registry says of an image.
type described struct {
	manifest *manifest // of the platform that was asked for
	config   *configuration
	top      string     // the digest that the reference means
	offered  []Platform // all that the registry has
}

// describe fetches the manifest for a platform and its configuration.
func (src *source) describe(ctx context.Context, ref string, p *Platform) (out described, err error) {
	host := Host()
	if p != nil {
		host = p.normal()
	}
	for depth := 0; ; depth++ {
		b, digest, err := src.manifest(ctx, ref)
		if err != nil {
			return out, err
		}
		if out.top == "" {
			out.top = digest
		}
		if out.manifest, err = parseManifest(b); err != nil {
			return out, err
		}
		if out.manifest.Config != nil {
			break
		}
		if depth == 0 {
			out.offered = out.manifest.platforms()
		}
		d, err := out.manifest.pick(host)
		if err != nil {
			return out, err
		}
		if ref = d.Digest; depth == 2 {
			return out, errors.New("the manifest only leads to other manifests")
		}
	}
	b, err := src.small(ctx, *out.manifest.Config)
	if err != nil {
		return out, err
	}
	if out.config, err = parseConfiguration(b); err != nil {
		return out, err
	}
	if len(out.config.RootFS.DiffIDs) != len(out.manifest.Layers) {
		return out, fmt.Errorf("the manifest has %d layers, but its configuration has %d", len(out.manifest.Layers), len(out.config.RootFS.DiffIDs))
	}
	if len(out.offered) == 0 {
		out.offered = []Platform{out.config.Platform}
	}
	return out, out.config.suits(host)
}

// layersOf brings the layers that are not here.
func (s *Store) layersOf(ctx context.Context, src *source, m *manifest, cfg *configuration, report func(Progress)) (map[string]*snapshot.Staged, error) {
	wanted := map[string]descriptor{} // by the digest of the content: an image may have a layer twice
	var order []string
	p := Progress{}
	for _, i := range s.missing(cfg) {
		id := cfg.RootFS.DiffIDs[i]
		if _, have := wanted[id]; !have {
			wanted[id] = m.Layers[i]
			order = append(order, id)
			p.Layers++
			p.Total += m.Layers[i].Size
		}
	}
	var mu sync.Mutex
	tell := func(layers int, bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		p.Done += layers
		p.Bytes += bytes
		if report != nil {
			report(p)
		}
	}
	staged := map[string]*snapshot.Staged{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, id := range order {
		g.Go(func() error {
			d := wanted[id]
			unlock, err := s.layers.lock(ctx, d.Digest)
			if err != nil {
				return err
			}
			defer unlock()
			if l, ok := s.snap.Find(id, nil); ok && l.Parents == nil {
				tell(1, d.Size) // another image's pull has brought it
				return nil
			}
			st, err := s.layer(ctx, src, d, id, func(n int64) { tell(0, n) })
			if err != nil {
				return err
			}
			if st.Independent() { // others can use it at once, and a pull that fails later need not bring it again
				_, err = s.snap.Commit(ctx, []snapshot.Part{{Staged: st}})
				st.Discard()
			} else {
				mu.Lock()
				staged[id] = st
				mu.Unlock()
			}
			tell(1, 0)
			return err
		})
	}
	return staged, g.Wait()
}
