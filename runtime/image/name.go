package image

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

// Name is a reference in Docker's normal form: registry, repository, and a tag or a digest.
type Name struct {
	Registry   string // docker.io, or host[:port]
	Repository string // library/nginx
	Tag        string // "" when Digest is given
	Digest     string // sha256:...
}

// String is the normal form, docker.io/library/nginx:1.7.9.
func (n Name) String() string {
	if n.Digest != "" {
		return n.Registry + "/" + n.Repository + "@" + n.Digest
	}
	return n.Registry + "/" + n.Repository + ":" + n.Tag
}

// ParseName reads a reference as Docker does: nginx is docker.io/library/nginx:latest. A digest wins over a tag.
func ParseName(ref string) (Name, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return Name{}, fmt.Errorf("couldn't parse image name %q: %w", ref, err)
	}
	n := Name{Registry: reference.Domain(named), Repository: reference.Path(named)}
	if d, ok := named.(reference.Digested); ok {
		n.Digest = d.Digest().String()
	} else if t, ok := named.(reference.Tagged); ok {
		n.Tag = t.Tag()
	}
	return n, nil
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func validDigest(d string) bool { return digestForm.MatchString(d) }

// hexOf is the digest without its algorithm, for the names of files.
func hexOf(digest string) string {
	_, h, _ := strings.Cut(digest, ":")
	return h
}
