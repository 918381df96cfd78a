package image

import (
	"fmt"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"pgregory.net/rapid"
)

// oracle is ParseName by the package that says what a reference is.
func oracle(ref string) (Name, error) {
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

func compare(t rapid.TB, ref string) {
	got, gotErr := ParseName(ref)
	want, wantErr := oracle(ref)
	if got != want || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
		t.Fatalf("%q: %+v, %v, wanted %+v, %v", ref, got, gotErr, want, wantErr)
	}
}

// TestReferences: what is taken, its normal form, and the words of a refusal are the reference implementation's.
func TestReferences(t *testing.T) {
	hex := strings.Repeat("0a", 64)
	piece := rapid.OneOf(
		rapid.SampledFrom([]string{"/", ":", "@", ".", "_", "__", "___", "-", "--", "+", "[", "]", "a", "B", "9", "é", "K", " ", "\n", "", "localhost", "docker.io", "index.docker.io", "library", "nginx", "Nginx",
			"a_b.c", "a-.b", "host:5000", "[::1]", "[fe80::1]:5", ":latest", ":V1.2-3_4", ":.x", "@sha256:", "@sha512:", "@sha384:", "@md5:", "@SHA256:", "@a+b:", "@a..b:", "@a+1:",
			hex[:31], hex[:32], hex[:63], hex[:64], strings.ToUpper(hex[:64]), hex[:96], hex, strings.Repeat("t", 128), strings.Repeat("a", 248), "sha256:" + hex[:64]}),
		rapid.StringMatching(`[a-zA-Z0-9._:/@\[\]-]{0,6}`),
	)
	rapid.Check(t, func(t *rapid.T) { compare(t, strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), "")) })
	whole := rapid.StringMatching(`(([A-Za-z0-9-]{1,3}(\.[A-Za-z0-9_-]{0,3}){0,2}|\[[0-9a-g:]{0,3}\]|localhost)(:[0-9a]{0,3})?/)?([a-z0-9A]{1,2}([._-]{0,3}[a-z0-9]{1,2}){0,2}/?){1,3}(:[A-Za-z0-9_.-]{0,4})?(@(sha256|sha512|md5|S|a_b):([0-9a-f]{64}|[0-9a-fA-F]{32}|[0-9a-f]{31}))?`)
	rapid.Check(t, func(t *rapid.T) { compare(t, whole.Draw(t, "reference")) })
}
