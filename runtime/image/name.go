package image

import (
	"fmt"
	"strings"
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
	n, err := parse(ref)
	switch {
	case err != nil:
		return Name{}, fmt.Errorf("couldn't parse image name %q: %w", ref, err)
	case n.Digest != "":
		n.Tag = ""
	case n.Tag == "":
		n.Tag = "latest"
	}
	return n, nil
}

// validDigest says whether a digest is one of SHA-256: no other is stored here.
func validDigest(d string) bool {
	digits, ok := strings.CutPrefix(d, "sha256:")
	return ok && len(digits) == algorithms["sha256"] && only(digits, lowerHex)
}

// hexOf is the digest without its algorithm, for the names of files.
func hexOf(digest string) string {
	_, h, _ := strings.Cut(digest, ":")
	return h
}
