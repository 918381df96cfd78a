package customresources

import (
	"crypto/sha256"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// maxConverted is how many bytes of converted objects a version of a definition remembers.
const maxConverted = 4 << 20

// converted is a codec that remembers what a webhook has made of an object: a list asks for each object that it reads, and a webhook may
// be a second away. Upstream's watch cache does the same for as long as the object, or the definition, does not change. What does not
// fit takes the place of others.
type converted struct {
	runtime.Codec

	mu    sync.Mutex
	known map[[sha256.Size]byte][]byte // by the sum of what is stored
	bytes int
}

func (c *converted) Decode(stored []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	sum := sha256.Sum256(stored)
	c.mu.Lock()
	known, ok := c.known[sum]
	c.mu.Unlock()
	if ok {
		return unstructured.UnstructuredJSONScheme.Decode(known, defaults, into)
	}
	o, kind, err := c.Codec.Decode(stored, defaults, into)
	if u, ok := o.(*unstructured.Unstructured); ok && err == nil && versionOf(stored) != u.GetAPIVersion() {
		if text, err := u.MarshalJSON(); err == nil {
			c.remember(sum, text)
		}
	}
	return o, kind, err
}

func (c *converted) remember(sum [sha256.Size]byte, text []byte) {
	if len(text) > maxConverted {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[[sha256.Size]byte][]byte{}
	}
	for other, old := range c.known { // whichever: of those in a row the next would be the one that is wanted next
		if c.bytes+len(text) <= maxConverted {
			break
		}
		c.bytes -= len(old)
		delete(c.known, other)
	}
	c.bytes += len(text) - len(c.known[sum])
	c.known[sum] = text
}

// versionOf is what an object is stored in; empty if that cannot be told.
func versionOf(stored []byte) string {
	o, _, err := plain.Decode(stored, nil, nil)
	if err != nil {
		return ""
	}
	return o.GetObjectKind().GroupVersionKind().GroupVersion().String()
}

var plain = objectCodec()
