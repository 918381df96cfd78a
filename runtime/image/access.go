package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
)

// Access is who may use an image under the name of one repository. A layer once fetched lies here for all, so a registry's "not
// without credentials" must be remembered, or any pod could start what its registry would not give it (KEP-2535).
type Access struct {
	Anyone bool  `json:"anyone,omitempty"` // it was had without a Secret
	Keys   []Key `json:"keys,omitempty"`   // with which it was had, the newest last
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

// opened is the access to something that was had with a credential.
func opened(with Auth) Access {
	if with.Owner == "" {
		return Access{Anyone: true}
	}
	return Access{Keys: []Key{with.key()}}
}

// with is an access that b adds to. An owner has one credential: the last.
func (a Access) with(b Access) Access {
	if a.Anyone || b.Anyone {
		return Access{Anyone: true}
	}
	keys := slices.Clone(a.Keys)
	for _, k := range b.Keys {
		if slices.Contains(keys, k) {
			continue
		}
		keys = append(slices.DeleteFunc(keys, func(old Key) bool { return old.Owner == k.Owner }), k)
	}
	return Access{Keys: keys[max(0, len(keys)-maxKeys):]}
}

// admits says whether one of the credentials opens an image, and which: the same content in another Secret counts, and so does a
// Secret that was accepted before and has new content now.
func (a Access) admits(auths []Auth) (Access, bool) {
	if a.Anyone {
		return a, true
	}
	for _, auth := range auths {
		k := auth.key()
		if slices.ContainsFunc(a.Keys, func(old Key) bool { return old.Hash == k.Hash || old.Owner == k.Owner }) {
			return opened(auth), true
		}
	}
	return Access{}, false
}

func (a Access) equal(b Access) bool { return a.Anyone == b.Anyone && slices.Equal(a.Keys, b.Keys) }

// merged joins what is known of an image's repositories.
func merged(a, b map[string]Access) map[string]Access {
	if a == nil {
		return b
	}
	all := maps.Clone(a)
	for repository, access := range b {
		all[repository] = all[repository].with(access)
	}
	return all
}

// forAll opens an image under names in normal form to everyone: who put it on the board by hand has decided that.
func forAll(names []string) map[string]Access {
	var all map[string]Access
	for _, name := range names {
		if n, err := ParseName(name); err == nil {
			all = merged(all, map[string]Access{n.repository(): {Anyone: true}})
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
	for repository, access := range img.Access {
		if !byID && repository != n.repository() {
			continue
		}
		of, _ := ParseName(repository)
		if with, ok := access.admits(keys.Lookup(of)); ok {
			return s.grant(img, repository, with), true
		}
	}
	return Image{}, false
}

// had notes with what a registry has just shown an image that is here.
func (s *Store) had(img Image, n Name, with Auth) Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	if here := s.images[img.ID]; here != nil {
		return s.grant(here, n.repository(), opened(with))
	}
	return img
}

// grant, with mu held, notes an access, and writes only what is new. That it cannot is no reason to refuse what was granted: the
// registry will be asked once more than needed.
func (s *Store) grant(img *Image, repository string, access Access) Image {
	more := *img
	more.Access = merged(img.Access, map[string]Access{repository: access})
	if more.Access[repository].equal(img.Access[repository]) {
		return *img
	}
	if err := s.writeRecord(&more); err != nil {
		s.log.Warn("who may use an image cannot be kept", "image", key(more), "err", err)
		return *img
	}
	s.images[img.ID] = &more
	return more
}
