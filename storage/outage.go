package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Outage is the news that the file server of a mounted volume no longer answers, or answers again.
type Outage struct {
	Pod    types.UID
	Server string
	Over   bool
	What   string // for people
}

const (
	// lookEvery is how often the kernel's counters are read while an export is mounted. That asks nobody.
	lookEvery = 5 * time.Second
	// unanswered is how long a call may be without an answer before the server is asked whether it is there.
	unanswered = 10 * time.Second
	// refusals is how often it must not answer, one look after the other.
	refusals = 2
)

// vigil is what is known of one mount from look to look.
type vigil struct {
	stats   mountStats
	settled int64     // sent without an answer, and without anybody waiting for one: what a broken connection has lost
	moved   time.Time // when something was last received
	asked   bool      // the server has answered since then, and nothing was sent
	silent  int       // how often it did not
	away    bool
	since   time.Time
}

// missing counts the calls without an answer.
func (m mountStats) missing() int64 { return int64(m.sent - m.received) }

// look takes in new counters. It says whether the server is to be asked, and whether an outage is over.
//
// While a server answers, the number of calls that were sent and not answered falls back to the same number again and again; and
// the client renews its lease, so that something is received at least that often.
func (v *vigil) look(s mountStats, now time.Time) (ask, over bool) {
	old, missing := v.stats, s.missing()
	v.stats = s
	switch {
	case v.moved.IsZero(): // the first look: nothing is known
		v.moved, v.settled = now, missing
		return true, false
	case s.received != old.received:
		over = v.away
		if over || s.connected != old.connected {
			v.settled = missing
		}
		v.settled = min(v.settled, missing)
		v.moved, v.asked, v.silent, v.away = now, false, 0, false
		return false, over
	case s.sent != old.sent:
		v.asked = false
	}
	if v.away || v.asked {
		return false, false
	}
	quiet := now.Sub(v.moved)
	lease := time.Duration(s.lease) * time.Second
	return v.silent > 0 || missing > v.settled && quiet >= unanswered || lease > 0 && quiet >= lease+unanswered, false
}

// answered takes in that the server was asked. It says whether an outage begins.
func (v *vigil) answered(yes bool, now time.Time) (begins bool) {
	if yes {
		v.asked, v.silent, v.settled = true, 0, v.stats.missing()
		return false
	}
	if v.silent++; v.silent < refusals {
		return false
	}
	v.away, v.since = true, now
	return true
}

// Watch tells of file servers of mounted volumes that go away and come back, until ctx is done. The kernel's counters say it: no
// mount is touched, and no server asked that shows signs of life. With nothing mounted it sleeps.
func (v *Volumes) Watch(ctx context.Context, tell func(Outage)) {
	known := map[string]*vigil{}
	for {
		mounts, err := v.exportsOfPods()
		if err == nil {
			err = v.watch(ctx, known, mounts, tell)
		}
		if err != nil {
			v.log.Warn("whether file servers answer is not known", "err", err)
		}
		var next <-chan time.Time
		if len(mounts) > 0 {
			next = time.After(lookEvery)
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
		case <-v.remote.mounted:
		}
	}
}

// exportsOfPods are the mounts that are volumes, by where they are.
func (v *Volumes) exportsOfPods() (map[string]mountPoint, error) {
	all, err := mountPoints()
	if err != nil {
		return nil, err
	}
	found := map[string]mountPoint{}
	for _, m := range all {
		if m.Kind == "nfs4" && filepath.Dir(filepath.Dir(m.At)) == v.dir && !within(m.At, filepath.Join(v.dir, exports)) {
			found[m.At] = m
		}
	}
	return found, nil
}

func (v *Volumes) watch(ctx context.Context, known map[string]*vigil, mounts map[string]mountPoint, tell func(Outage)) error {
	for at := range known {
		if _, there := mounts[at]; !there {
			delete(known, at)
		}
	}
	if len(mounts) == 0 {
		return nil
	}
	f, err := os.Open("/proc/self/mountstats")
	if err != nil {
		return err
	}
	defer f.Close()
	stats, err := parseMountStats(f)
	if err != nil {
		return err
	}
	answers := map[string]error{} // a server is asked once a look
	var errs []error
	for _, s := range stats {
		if m, ours := mounts[s.at]; ours {
			errs = append(errs, v.watchOne(ctx, known, m, s, answers, tell))
		}
	}
	return errors.Join(errs...)
}

func (v *Volumes) watchOne(ctx context.Context, known map[string]*vigil, m mountPoint, s mountStats, answers map[string]error, tell func(Outage)) error {
	g := known[m.At]
	if g == nil {
		g = &vigil{}
		known[m.At] = g
	}
	now := time.Now()
	ask, over := g.look(s, now)
	if over {
		return v.over(m, g, now, tell)
	}
	if !ask {
		return nil
	}
	host := m.server() + " " + m.option("addr")
	err, asked := answers[host]
	if !asked {
		err = m.ask(ctx)
		answers[host] = err
	}
	switch begins := g.answered(err == nil, now); {
	case ctx.Err() != nil:
		return nil
	case begins:
		return v.begins(m, s, err, tell)
	case err == nil && v.told(m): // it was away when an earlier agent ended
		return v.over(m, g, now, tell)
	}
	return nil
}

func (v *Volumes) begins(m mountPoint, s mountStats, why error, tell func(Outage)) error {
	if v.told(m) { // by an earlier agent
		return nil
	}
	fate := "what uses the volume waits until it is back, and nothing that was written is lost"
	if s.soft {
		fate = "what uses the volume gets errors until it is back (mount option soft)"
	}
	pod, name := podOf(m)
	tell(Outage{Pod: pod, Server: m.server(), What: fmt.Sprintf("volume %q: %v; %s", name, why, fate)})
	return v.note(m)
}

func (v *Volumes) over(m mountPoint, g *vigil, now time.Time, tell func(Outage)) error {
	pod, name := podOf(m)
	after := ""
	if !g.since.IsZero() {
		after = " after " + now.Sub(g.since).Round(time.Second).String()
	}
	tell(Outage{Pod: pod, Server: m.server(), Over: true, What: fmt.Sprintf("volume %q: nfs server %s answers again%s", name, m.server(), after)})
	return ignoreMissing(os.Remove(v.noteOf(m)))
}

// podOf is whose volume a mount is, and its name.
func podOf(m mountPoint) (types.UID, string) {
	return types.UID(filepath.Base(filepath.Dir(m.At))), filepath.Base(m.At)
}

// away is the folder of a pod that notes which of its volumes' servers were said to be away, so that a new agent does not say it
// again; no volume can be called so.
const away = ".away"

func (v *Volumes) noteOf(m mountPoint) string {
	return filepath.Join(filepath.Dir(m.At), away, filepath.Base(m.At))
}

func (v *Volumes) told(m mountPoint) bool {
	_, err := os.Lstat(v.noteOf(m))
	return err == nil
}

func (v *Volumes) note(m mountPoint) error {
	note := v.noteOf(m)
	if err := os.Mkdir(filepath.Dir(note), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.WriteFile(note, []byte(strings.TrimSpace(m.Source)+"\n"), 0o600)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
