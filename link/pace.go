package link

import "time"

// Bounds of the pace.
const (
	minWindow   = 8 << 10
	maxWindow   = 256 << 10
	firstWindow = 32 << 10
	// queueTarget is how long bytes of ours may wait in the queues of the path (a broker has long
	// ones): what is sent next waits as long.
	queueTarget = 120 * time.Millisecond
	// baseSlots times baseSlot is how long the shortest round trip is remembered.
	baseSlots = 5
	baseSlot  = 2 * time.Minute
)

// pacer decides how many bytes may be on their way to the peer. It looks at delay, not at loss:
// when the round trip grows beyond the shortest one by more than the target, the window shrinks.
// So it keeps a slow link busy with next to nothing waiting in front of it.
type pacer struct {
	window   float64
	inflight [paceClasses]int
	sent     []pacedFrame
	growing  bool // exponentially, until the first queue is seen

	srtt, rttvar time.Duration
	base         [baseSlots]time.Duration
	slot         int
	slotEnds     time.Time
}

type paceClass int

const (
	paceItems paceClass = iota
	paceData
	paceClasses
)

type pacedFrame struct {
	counter uint64
	size    [paceClasses]int
	at      time.Time
	full    bool // the window was in use when it was sent
}

func newPacer() pacer { return pacer{window: firstWindow, growing: true} }

func (p *pacer) total() int { return p.inflight[paceItems] + p.inflight[paceData] }

// room is how many bytes of a class may be sent. Items have a window of their own, so stream
// bytes on their way never hold them up; stream bytes wait for both.
func (p *pacer) room(c paceClass) int {
	if c == paceItems {
		return int(p.window) - p.inflight[paceItems]
	}
	return int(p.window) - p.total()
}

func (p *pacer) send(counter uint64, size [paceClasses]int, now time.Time) {
	for c, n := range size {
		p.inflight[c] += n
	}
	p.sent = append(p.sent, pacedFrame{counter, size, now, p.total() >= int(p.window)/2})
}

// acked takes an ack: all paced frames up to counter have arrived or are lost.
func (p *pacer) acked(counter uint64, held time.Duration, now time.Time) {
	n, bytes, full := 0, 0, false
	var sample time.Duration
	for n < len(p.sent) && p.sent[n].counter <= counter {
		f := p.sent[n]
		for c, size := range f.size {
			p.inflight[c] -= size
			bytes += size
		}
		full = full || f.full
		if f.counter == counter {
			sample = max(now.Sub(f.at)-held, time.Microsecond)
		}
		n++
	}
	p.sent = append(p.sent[:0], p.sent[n:]...)
	if sample == 0 {
		return
	}
	p.measure(sample, now)
	queue := sample - p.shortest()
	if p.growing {
		if queue > queueTarget/2 {
			p.growing = false
		} else if full {
			p.window += float64(bytes)
		}
	} else if off := float64(queueTarget-queue) / float64(queueTarget); off < 0 || full {
		p.window += max(off, -1) * float64(bytes) * minWindow / p.window
	}
	p.window = min(max(p.window, minWindow), maxWindow)
}

func (p *pacer) measure(sample time.Duration, now time.Time) {
	if p.srtt == 0 {
		p.srtt, p.rttvar = sample, sample/2
	} else {
		diff := p.srtt - sample
		p.rttvar += (max(diff, -diff) - p.rttvar) / 4
		p.srtt += (sample - p.srtt) / 8
	}
	if now.After(p.slotEnds) {
		p.slot = (p.slot + 1) % baseSlots
		p.base[p.slot] = sample
		p.slotEnds = now.Add(baseSlot)
	}
	p.base[p.slot] = min(p.base[p.slot], sample)
}

func (p *pacer) shortest() time.Duration {
	least := time.Duration(0)
	for _, b := range p.base {
		if b > 0 && (least == 0 || b < least) {
			least = b
		}
	}
	return least
}

// timeout is how long an answer may take.
func (p *pacer) timeout() time.Duration {
	if p.srtt == 0 {
		return 2 * time.Second
	}
	return min(max(2*p.srtt+4*p.rttvar, time.Second), 20*time.Second)
}

// expires is when the oldest frame counts as lost; zero if none is on its way.
func (p *pacer) expires() time.Time {
	if len(p.sent) == 0 {
		return time.Time{}
	}
	return p.sent[0].at.Add(p.timeout())
}

// forget gives up what is on its way.
func (p *pacer) forget() {
	p.sent = nil
	p.inflight = [paceClasses]int{}
}

// expire gives up frames that were not acknowledged in time, and slows down.
func (p *pacer) expire(now time.Time) {
	if e := p.expires(); !e.IsZero() && !now.Before(e) {
		p.forget()
		p.window = max(p.window/2, minWindow)
		p.growing = false
	}
}
