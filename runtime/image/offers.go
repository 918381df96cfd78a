package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bramble.dev/internal/durable"
)

// An offer is what is known of an image's platforms: from a registry's index, from the configuration of an image that
// was pulled, or from an archive that was refused because it is for other machines. It is kept on the disk, so that a
// restarted node still says why a pod waits.
type offer struct {
	Platforms []Platform `json:"platforms"`
	// learned is when it was seen last. It is not kept: a pod that tries again would write to the card each time.
	learned time.Time
}

// How long an offer is told to others. A tag may be pushed again for more platforms, and nobody would find out as long
// as all are kept from trying: so what keeps this board out is soon forgotten, unless a pod here tries again.
const (
	tellUnfit = 15 * time.Minute
	tellFit   = 24 * time.Hour
)

// maxOffers bounds what is kept; the oldest is forgotten.
const maxOffers = 200

func (s *Store) offersFile() string { return filepath.Join(s.dir, "offers.json") }

// loadOffers reads what an earlier process knew. What is damaged is forgotten: it is learned again.
func (s *Store) loadOffers() {
	s.offers = map[string]offer{}
	b, err := os.ReadFile(s.offersFile())
	if err == nil {
		err = json.Unmarshal(b, &s.offers)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("what was known of images' platforms is lost, and learned again", "file", s.offersFile(), "err", err)
		s.offers = map[string]offer{}
	}
	now := time.Now()
	for name, o := range s.offers {
		o.learned = now
		s.offers[name] = o
	}
}

// learn notes for which platforms an image is. No platforms: that is not known.
func (s *Store) learn(name string, platforms []Platform) {
	var list []Platform
	for _, p := range platforms {
		if p = p.normal(); p.Architecture != "" && p.OS != "unknown" && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.offers[name]
	if len(list) == 0 {
		if delete(s.offers, name); known {
			s.saveOffers()
		}
		return
	}
	s.offers[name] = offer{list, time.Now()}
	if known && slices.Equal(old.Platforms, list) {
		return
	}
	for len(s.offers) > maxOffers {
		oldest := name
		for n, o := range s.offers {
			if o.learned.Before(s.offers[oldest].learned) {
				oldest = n
			}
		}
		delete(s.offers, oldest)
	}
	s.saveOffers()
}

// still notes that what is known of an image was seen again.
func (s *Store) still(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, known := s.offers[name]; known {
		s.offers[name] = offer{o.Platforms, time.Now()}
	}
}

// saveOffers is called with mu held. That it fails is no reason to fail what taught the offer.
func (s *Store) saveOffers() {
	b, err := json.Marshal(s.offers)
	if err == nil {
		err = durable.WriteFile(s.offersFile(), b, 0o600)
	}
	if err != nil {
		s.log.Warn("what is known of images' platforms cannot be kept", "err", err)
	}
}

// arrived forgets that an image is for other machines, after one of its names has come that this machine runs.
func (s *Store) arrived(img Image) {
	for _, name := range img.Names {
		s.mu.Lock()
		o, known := s.offers[name]
		s.mu.Unlock()
		if known && Host().best(o.Platforms) < 0 {
			s.learn(name, nil)
		}
	}
}

// Offers tells for which platforms images are, by their names in normal form, of those of which that is known and
// still worth telling.
func (s *Store) Offers() map[string][]Platform {
	host := Host()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]Platform{}
	for name, o := range s.offers {
		lasts := tellUnfit
		if host.best(o.Platforms) >= 0 {
			lasts = tellFit
		}
		if strings.Contains(name, "@") || time.Since(o.learned) < lasts { // what a digest means never changes
			out[name] = slices.Clone(o.Platforms)
		}
	}
	return out
}

// Unfit is a *PlatformError if an image is known to be for other machines than this, else nil.
func (s *Store) Unfit(ref string) error {
	name := ref
	if n, err := ParseName(ref); err == nil {
		name = n.String()
	}
	host := Host()
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.offers[name].Platforms
	if img := s.resolve(ref); img != nil { // what is here counts
		have = []Platform{img.Platform}
	}
	if len(have) == 0 || have[0].Architecture == "" || host.best(have) >= 0 {
		return nil
	}
	return &PlatformError{Name: name, Host: host, Have: have}
}

// explainUnfit adds what is known of the image's platforms to a pull's error: a registry that cannot be reached is not
// what keeps an image away that is for other machines.
func (s *Store) explainUnfit(n Name, err error) error {
	unfit := s.Unfit(n.String())
	if unfit == nil {
		return err
	}
	s.still(n.String())
	return fmt.Errorf("%w (one for this node was looked for: %w)", unfit, err)
}
