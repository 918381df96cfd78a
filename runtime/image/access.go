package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// Access is who may use an image under the name of one repository. A layer once fetched lies here for all, so a registry's "not
// without credentials" must be remembered, or any pod could start what its registry would not give it (KEP-2535).
type Access struct {
	Repository string `json:"repository"`
	Anyone     bool   `json:"anyone,omitempty"` // it was had without a Secret
	Keys       []Key  `json:"keys,omitempty"`   // with which it was had, the newest last
}

// Key is a credential that a registry has accepted for an image: whose it is, and the digest of what it holds.
type Key struct {
	Owner string `json:"owner"`
	Hash  string `json:"hash"`
}

// maxKeys bounds what is remembered of one repository; the oldest is forgotten, and shown to the registry again.
const maxKeys = 100

func (a Auth) key() Key {
	b, _ := json.Marshal([]string{a.Username, a.Password, a.IdentityToken, a.RegistryToken})
	sum := sha256.Sum256(b)
	return Key{a.Owner, hex.EncodeToString(sum[:])}
}

// opened is the access to a repository's image that was had with a credential.
func opened(n Name, with Auth) Access {
	a := Access{Repository: n.repository(), Anyone: with.Owner == ""}
	if !a.Anyone {
		a.Keys = []Key{with.key()}
	}
	return a
}

// with is an access that b adds to. An owner has one credential: the last.
func (a Access) with(b Access) Access {
	if a.Anyone || b.Anyone {
		return Access{Repository: a.Repository, Anyone: true}
	}
	keys := slices.Clone(a.Keys)
	for _, k := range b.Keys {
		if slices.Contains(keys, k) {
			continue
		}
		keys = append(slices.DeleteFunc(keys, func(old Key) bool { return old.Owner == k.Owner }), k)
	}
	return Access{Repository: a.Repository, Keys: keys[max(0, len(keys)-maxKeys):]}
}

// admits says whether one of the credentials opens an image, and which: the same content in another Secret counts, and so does a
// Secret that was accepted before and has new content now.
func (a Access) admits(keys *Keyring) (Access, bool) {
	if a.Anyone {
		return a, true
	}
	n, _ := ParseName(a.Repository)
	for _, auth := range keys.Lookup(n) {
		k := auth.key()
		if slices.ContainsFunc(a.Keys, func(old Key) bool { return old.Hash == k.Hash || old.Owner == k.Owner }) {
			return opened(n, auth), true
		}
	}
	return Access{}, false
}

func (a Access) equal(b Access) bool {
	return a.Repository == b.Repository && a.Anyone == b.Anyone && slices.Equal(a.Keys, b.Keys)
}

// merged joins what is known of an image's repositories.
func merged(a, b []Access) []Access {
	all := slices.Clone(a)
	for _, more := range b {
		if i := slices.IndexFunc(all, func(x Access) bool { return x.Repository == more.Repository }); i >= 0 {
			all[i] = all[i].with(more)
		} else {
			all = append(all, more)
		}
	}
	return all
}

// forAll opens an image under names in normal form to everyone: who put it on the board by hand has decided that.
func forAll(names []string) (all []Access) {
	for _, name := range names {
		if n, err := ParseName(name); err == nil {
			all = merged(all, []Access{opened(n, Auth{})})
		}
	}
	return all
}

func (n Name) repository() string { return n.Registry + "/" + n.Repository }

// ResolveFor is Resolve for somebody who has these credentials and no others: what a registry gave only to others is not found,
// and must be asked for again. An image of which no access is known (it was here before that was noted) is everyone's. By its ID
// an image is found by those who may use it under any name.
func (s *Store) ResolveFor(ref string, keys *Keyring) (Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.resolve(ref)
	if img == nil {
		return Image{}, false
	}
	if img.Access == nil {
		return *img, true
	}
	n, err := ParseName(ref)
	byID := err != nil || ref == img.ID
	for _, a := range img.Access {
		if !byID && a.Repository != n.repository() {
			continue
		}
		if with, ok := a.admits(keys); ok {
			return s.grant(img, with), true
		}
	}
	return Image{}, false
}

// had notes with what a registry has just shown an image that is here.
func (s *Store) had(img Image, n Name, with Auth) Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	if here := s.images[img.ID]; here != nil {
		return s.grant(here, opened(n, with))
	}
	return img
}

// grant, with mu held, notes an access, and writes only what is new. That it cannot is no reason to refuse what was granted: the
// registry will be asked once more than needed.
func (s *Store) grant(img *Image, access Access) Image {
	more := *img
	if more.Access = merged(img.Access, []Access{access}); slices.EqualFunc(more.Access, img.Access, Access.equal) {
		return *img
	}
	if err := s.writeRecord(&more); err != nil {
		s.log.Warn("who may use an image cannot be kept", "image", key(more), "err", err)
		return *img
	}
	s.images[img.ID] = &more
	return more
}
