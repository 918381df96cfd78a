package dns

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxEntries = 1000
	maxBytes   = 8 << 10 // of one answer: larger ones are not kept
	maxTTL     = 5 * time.Minute
	noTTL      = 30 * time.Second // at most, for what does not exist
	// stale answers are given for so long when no resolver knows: a site that is cut off still
	// finds what its pods used. RFC 8767.
	stale = 6 * time.Hour
)

type key struct {
	name   string
	qtype  uint16
	do, cd bool
}

func keyOf(q *dns.Msg) key {
	k := key{name: strings.ToLower(q.Question[0].Name), qtype: q.Question[0].Qtype, cd: q.CheckingDisabled}
	if o := q.IsEdns0(); o != nil {
		k.do = o.Do()
	}
	return k
}

// cache holds the answers used last; beyond its bound the one that was not used for the longest time
// goes.
type cache struct {
	mu      sync.Mutex
	entries map[key]*list.Element
	order   *list.List // most recently used first
}

type entry struct {
	key  key
	m    *dns.Msg
	at   time.Time
	life time.Duration
}

func newCache() *cache { return &cache{entries: map[key]*list.Element{}, order: list.New()} }

// get finds an answer with its TTLs counted down, and says whether it is still fresh.
func (c *cache) get(k key, now time.Time) (*dns.Msg, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[k]
	if el == nil {
		return nil, false
	}
	e := el.Value.(*entry)
	age := now.Sub(e.at)
	if age < 0 || age > e.life+stale {
		c.remove(el)
		return nil, false
	}
	c.order.MoveToFront(el)
	m := e.m.Copy()
	fresh := age < e.life
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			h := rr.Header()
			if h.Rrtype == dns.TypeOPT {
				continue
			}
			if fresh {
				h.Ttl -= min(h.Ttl, uint32(age/time.Second))
			} else {
				h.Ttl = ttl
			}
		}
	}
	return m, fresh
}

func (c *cache) put(k key, m *dns.Msg, now time.Time) {
	life := lifeOf(m)
	if life <= 0 || m.Truncated || m.Len() > maxBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[k]; el != nil {
		c.remove(el)
	}
	c.entries[k] = c.order.PushFront(&entry{key: k, m: m.Copy(), at: now, life: life})
	for c.order.Len() > maxEntries {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	delete(c.entries, el.Value.(*entry).key)
	c.order.Remove(el)
}

// lifeOf is how long an answer may be given again: the least of its TTLs; for one that says that
// there is nothing, what its SOA says (RFC 2308).
func lifeOf(m *dns.Msg) time.Duration {
	switch {
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0:
		least := uint32(maxTTL / time.Second)
		for _, rr := range m.Answer {
			least = min(least, rr.Header().Ttl)
		}
		return time.Duration(least) * time.Second
	case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(noTTL, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
			}
		}
	}
	return 0
}
