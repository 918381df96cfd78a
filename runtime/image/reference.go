package image

import (
	"errors"
	"fmt"
	"strings"
)

// What a reference may be is what github.com/distribution/reference takes, with the words of its errors: a test holds both equal.
// That package is not linked, because its regular expressions, compiled when the program starts, keep 100 KiB of an agent's 8 MiB
// for good.
var (
	errFormat       = errors.New("invalid reference format")
	errUppercase    = errors.New("repository name must be lowercase")
	errLong         = fmt.Errorf("repository name must not be more than %d characters", longestPath)
	errDigestFormat = errors.New("invalid checksum digest format")
	errDigestLength = errors.New("invalid checksum digest length")
	errAlgorithm    = errors.New("unsupported digest algorithm")
)

const (
	longestPath = 255 // characters
	longestTag  = 128
	leastDigest = 32 // hexadecimal digits, whatever the algorithm
)

// algorithms are those of digests, with their hexadecimal digits.
var algorithms = map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}

// parse reads a reference: [registry/]path[:tag][@digest]. The registry is "" where what stands in its place cannot be one, but
// can be the beginning of a path.
func parse(ref string) (n Name, err error) {
	if len(ref) == 64 && only(ref, lowerHex) {
		return n, fmt.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", ref)
	}
	registry, rest := splitRegistry(ref)
	name, _, _ := strings.Cut(rest, ":")
	if strings.ToLower(name) != name {
		return n, fmt.Errorf("invalid reference format: repository name (%s) must be lowercase", name)
	}
	n, ok := parts(registry, rest)
	if !ok {
		if _, ok := parts(strings.ToLower(registry), strings.ToLower(rest)); ok {
			return n, errUppercase
		}
		return n, errFormat
	}
	if len(n.Repository) > longestPath {
		return n, errLong
	}
	if n.Digest != "" {
		return n, checkDigest(n.Digest)
	}
	return n, nil
}

// splitRegistry splits a reference as people write it: without a registry it is of Docker's, where what has no owner is
// of the library.
func splitRegistry(ref string) (registry, rest string) {
	const docker, legacy, library = "docker.io", "index.docker.io", "library/"
	first, rest, ok := strings.Cut(ref, "/")
	switch {
	case !ok:
		return docker, library + ref
	case first == legacy:
		registry = docker
	case first == "localhost" || strings.ContainsAny(first, ".:") || strings.ToLower(first) != first:
		registry = first
	default:
		return docker, ref
	}
	if registry == docker && !strings.Contains(rest, "/") {
		rest = library + rest
	}
	return registry, rest
}

// parts takes the rest of a reference apart, and says whether each part has the form that it must have.
func parts(registry, rest string) (n Name, ok bool) {
	rest, digest, hasDigest := strings.Cut(rest, "@")
	path, tag, hasTag := strings.Cut(rest, ":")
	if !isHost(registry) {
		registry, path = "", registry+"/"+path
	}
	return Name{registry, path, tag, digest}, isPath(path) && (!hasTag || isTag(tag)) && (!hasDigest || isDigest(digest))
}

// isHost: a DNS name, an IPv4 address, or an IPv6 address in brackets, with or without a port.
func isHost(s string) bool {
	if address, port, ok := strings.Cut(s, "]"); ok && s[0] == '[' {
		return address != "[" && only(address[1:], func(c byte) bool { return isHex(c) || c == ':' }) && (port == "" || port[0] == ':' && isPort(port[1:]))
	}
	host, port, ok := strings.Cut(s, ":")
	if ok && !isPort(port) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || !only(label, func(c byte) bool { return isAlphanumeric(c) || c == '-' }) {
			return false
		}
	}
	return true
}

func isPort(s string) bool { return s != "" && only(s, isDigit) }

// isPath: components of lower-case letters and digits, which a dot, one or two underscores or any number of dashes part.
func isPath(s string) bool {
	for component := range strings.SplitSeq(s, "/") {
		for {
			word := len(component) - len(strings.TrimLeftFunc(component, func(r rune) bool { return r < 0x80 && (isLower(byte(r)) || isDigit(byte(r))) }))
			if word == 0 {
				return false
			}
			if component = component[word:]; component == "" {
				break
			}
			switch dashes := len(component) - len(strings.TrimLeft(component, "-")); {
			case dashes > 0:
				component = component[dashes:]
			case strings.HasPrefix(component, "__"):
				component = component[2:]
			case component[0] == '.' || component[0] == '_':
				component = component[1:]
			default:
				return false
			}
		}
	}
	return true
}

func isTag(s string) bool {
	return s != "" && len(s) <= longestTag && s[0] != '.' && s[0] != '-' && only(s, func(c byte) bool { return isAlphanumeric(c) || strings.IndexByte("_.-", c) >= 0 })
}

func isDigest(s string) bool {
	algorithm, digits, ok := strings.Cut(s, ":")
	if !ok || len(digits) < leastDigest || !only(digits, isHex) {
		return false
	}
	for word := range strings.SplitSeq(strings.NewReplacer("-", "+", "_", "+", ".", "+").Replace(algorithm), "+") {
		if word == "" || isDigit(word[0]) || !only(word, isAlphanumeric) {
			return false
		}
	}
	return true
}

// checkDigest says what is wrong with what has the form of a digest.
func checkDigest(s string) error {
	algorithm, digits, _ := strings.Cut(s, ":")
	switch length := algorithms[algorithm]; {
	case length == 0 && strings.ToLower(algorithm) != algorithm:
		return errDigestFormat
	case length == 0:
		return errAlgorithm
	case len(digits) != length:
		return errDigestLength
	case !only(digits, lowerHex):
		return errDigestFormat
	}
	return nil
}

func only(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool        { return '0' <= c && c <= '9' }
func isLower(c byte) bool        { return 'a' <= c && c <= 'z' }
func isAlphanumeric(c byte) bool { return isDigit(c) || isLower(c|0x20) }
func isHex(c byte) bool          { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
func lowerHex(c byte) bool       { return isDigit(c) || 'a' <= c && c <= 'f' }
