package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What is accepted of manifests and configurations, which are read into memory.
const (
	maxManifest = 4 << 20
	maxLayers   = 127 // the kernel's limit of one overlay
)

type descriptor struct {
	MediaType string    `json:"mediaType"`
	Digest    string    `json:"digest"`
	Size      int64     `json:"size"`
	Platform  *Platform `json:"platform,omitempty"`
	// Annotations name an image in an OCI archive's index.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// manifest is an image's manifest or an index of manifests; which one, its fields say.
type manifest struct {
	MediaType string       `json:"mediaType"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
	History   []any        `json:"fsLayers"` // of schema 1
}

func parseManifest(b []byte) (*manifest, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("the manifest is larger than %d bytes", maxManifest)
	}
	m := new(manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("the manifest is not one: %w", err)
	}
	if m.Config == nil && m.Manifests == nil {
		if m.History != nil {
			return nil, errors.New("the manifest is of schema 1, which is no longer supported; push the image again with a newer tool")
		}
		return nil, errors.New("the manifest names neither a configuration nor other manifests")
	}
	if m.Config != nil && m.Manifests != nil {
		return nil, errors.New("the manifest is ambiguous: it has both a configuration and other manifests")
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("the image has %d layers; overlayfs takes %d", len(m.Layers), maxLayers)
	}
	all := append(slices.Clone(m.Layers), m.Manifests...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	for _, d := range all {
		if !validDigest(d.Digest) {
			return nil, fmt.Errorf("the manifest names %q, which is no sha256 digest", d.Digest)
		}
		if d.Size < 0 {
			return nil, fmt.Errorf("the manifest gives %s a negative size", d.Digest)
		}
	}
	return m, nil
}

// pick chooses the manifest for a host.
func (m *manifest) pick(host Platform) (descriptor, error) {
	var candidates []descriptor
	var platforms []Platform
	for _, d := range m.Manifests {
		if d.Platform == nil {
			if len(m.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if d.Platform.OS == "unknown" { // attestations
			continue
		}
		candidates = append(candidates, d)
		platforms = append(platforms, *d.Platform)
	}
	if i := host.best(platforms); i >= 0 {
		return candidates[i], nil
	}
	return descriptor{}, &PlatformError{Host: host, Have: platforms}
}

// platforms lists what an index says it has.
func (m *manifest) platforms() (out []Platform) {
	for _, d := range m.Manifests {
		if d.Platform != nil {
			out = append(out, *d.Platform)
		}
	}
	return out
}

// PlatformError says that an image exists, but for other machines.
type PlatformError struct {
	Name string
	Host Platform
	Have []Platform
}

func (e *PlatformError) Error() string {
	have := make([]string, 0, len(e.Have))
	for _, p := range e.Have {
		if s := p.normal().String(); !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	list := strings.Join(have, ", ")
	if list == "" {
		list = "no platform at all"
	}
	what := "the image"
	if e.Name != "" {
		what = "image " + e.Name
	}
	return fmt.Sprintf("%s is for %s, but this node is %s; use an image for %[3]s, or a node that runs it", what, list, e.Host)
}

// configuration is an image's configuration blob.
type configuration struct {
	Platform
	Created *time.Time `json:"created"`
	Config  Config     `json:"config"`
	RootFS  struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

func parseConfiguration(b []byte) (*configuration, error) {
	if len(b) > maxManifest {
		return nil, fmt.Errorf("the configuration is larger than %d bytes", maxManifest)
	}
	c := new(configuration)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("the image's configuration is not one: %w", err)
	}
	if len(c.RootFS.DiffIDs) > maxLayers {
		return nil, fmt.Errorf("the image has %d layers; overlayfs takes %d", len(c.RootFS.DiffIDs), maxLayers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if !validDigest(d) {
			return nil, fmt.Errorf("the configuration names layer %q, which is no sha256 digest", d)
		}
	}
	return c, nil
}

// suits says whether the image runs on the host. An image that does not say what it is for is believed.
func (c *configuration) suits(host Platform) error {
	if c.Architecture == "" || host.best([]Platform{c.Platform}) == 0 {
		return nil
	}
	return &PlatformError{Host: host, Have: []Platform{c.Platform}}
}
