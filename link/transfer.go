package link

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// This file is what a session does for its streams: bytes go out in turn, are sent again from the
// last offset that arrived when something was lost, and every stream ends on both sides.

// Open begins a stream to what target names at the peer. It does not wait for the peer: that the
// target cannot be reached is an error of the first Read.
func (s *Session) Open(target string) (*Stream, error) {
	if len(target) > maxTarget {
		return nil, fmt.Errorf("link: target %.20q... is too long", target)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, s.ended
	}
	if len(s.streams) >= 2*maxStreams {
		return nil, ErrTooManyStreams
	}
	id := s.nextStream
	s.nextStream += 2
	st := s.newStream(id, target)
	st.opening = true
	s.kick()
	return st, nil
}

// ours reports whether this side opened the stream: agents use odd numbers.
func (s *Session) ours(id uint64) bool { return (id%2 == 1) == s.cfg.Agent }

func (s *Session) receiveData(m data, now time.Time) {
	st := s.streams[m.stream]
	if st == nil {
		if s.ours(m.stream) || !s.fresh(m.stream) {
			s.resetLater(reset{stream: m.stream})
			return
		}
		if m.flags&dataOpen == 0 {
			return // the message that opens it was lost and will be repeated
		}
		if st = s.accept(m); st == nil {
			return
		}
	}
	if st.mustReset || st.err != nil {
		return
	}
	st.opening = false
	st.take(m)
}

// fresh reports whether a stream of the peer was never seen.
func (s *Session) fresh(id uint64) bool { return id >= s.nextPeer || slices.Contains(s.skipped, id) }

// seen notes a stream of the peer. Streams may appear out of order when the first message of one
// was lost; of those that did not appear yet some are remembered.
func (s *Session) seen(id uint64) {
	if i := slices.Index(s.skipped, id); i >= 0 {
		s.skipped = slices.Delete(s.skipped, i, i+1)
	}
	if id >= s.nextPeer && id-s.nextPeer > 2*maxStreams {
		s.nextPeer = id - 2*maxStreams
	}
	for ; s.nextPeer <= id; s.nextPeer += 2 {
		if s.nextPeer < id {
			s.skipped = append(s.skipped, s.nextPeer)
		}
	}
	if n := len(s.skipped) - maxStreams; n > 0 {
		s.skipped = slices.Delete(s.skipped, 0, n)
	}
}

// accept makes a stream that the peer opens.
func (s *Session) accept(m data) *Stream {
	s.seen(m.stream)
	if s.cfg.Accept == nil || len(m.target) > maxTarget || s.peers() >= maxStreams {
		s.resetLater(reset{m.stream, "too many streams"})
		return nil
	}
	st := s.newStream(m.stream, m.target)
	s.after = append(s.after, func() { s.cfg.Accept(st) })
	return st
}

func (s *Session) peers() (n int) {
	for id := range s.streams {
		if !s.ours(id) {
			n++
		}
	}
	return n
}

// resetLater queues a reset for a stream that is not there. At the bound they are dropped: the
// peer will ask again.
func (s *Session) resetLater(m reset) {
	if len(s.resets) < maxStreams {
		s.resets = append(s.resets, m)
	}
}

// take appends what is new of received bytes.
func (st *Stream) take(m data) {
	st.owe = true
	if st.finished {
		return
	}
	if m.offset > st.received {
		st.gap = true
		return
	}
	known := st.received - m.offset
	if known > uint64(len(m.bytes)) {
		return
	}
	fresh := m.bytes[known:]
	if room := st.allowed() - st.received; uint64(len(fresh)) > room {
		return // the peer does not keep to the credit
	}
	if st.closed && len(fresh) > 0 {
		st.received += uint64(len(fresh)) // nobody reads it
	} else if len(fresh) > 0 {
		st.in = append(st.in, fresh...)
		st.received += uint64(len(fresh))
	}
	if m.flags&dataEnd != 0 {
		st.finished = true
	}
	st.wake.Broadcast()
}

func (s *Session) receiveCredit(m credit, now time.Time) {
	st := s.streams[m.stream]
	if st == nil {
		if m.flags&creditEnded == 0 {
			s.resetLater(reset{stream: m.stream})
		}
		return
	}
	end := st.base + uint64(len(st.out))
	if st.mustReset || st.err != nil || m.received < st.base || m.received > end {
		return
	}
	st.opening = false
	if n := m.received - st.base; n > 0 {
		st.out = shift(st.out, int(n))
		st.base = m.received
		st.next = max(st.next, st.base)
		st.stalled = time.Time{}
		st.wake.Broadcast()
	}
	st.limit = max(st.limit, m.limit)
	if m.flags&creditEnded != 0 && st.ending && m.received == end {
		st.ended = true
	}
	st.tries = 0
	if m.flags&creditGap != 0 && st.next > st.base && now.Sub(st.rewound) > s.pace.srtt {
		st.rewind()
		st.rewound = now
	}
}

// rewind sends again from the last offset that arrived.
func (st *Stream) rewind() {
	st.next = st.base
	st.endSent = false
	st.stalled = time.Time{}
}

func (s *Session) receiveReset(m reset) {
	st := s.streams[m.stream]
	if m.reason != "" {
		// A demand: confirm it, whether or not the stream is there.
		s.resetLater(reset{stream: m.stream})
		if !s.ours(m.stream) && s.fresh(m.stream) {
			s.seen(m.stream)
		}
	}
	if st == nil {
		return
	}
	if m.reason == "" && !st.mustReset && st.opening && st.base == 0 && s.ours(m.stream) {
		// It never knew the stream, or no longer does.
		m.reason = "refused"
	}
	if m.reason != "" && !st.finished {
		st.fail(errors.New("link: the peer closed the stream: " + m.reason))
	} else if st.finished {
		st.fail(errors.New("link: the peer closed the stream"))
	} else {
		st.fail(errors.New("link: the peer forgot the stream"))
	}
	s.remove(st)
}

func (s *Session) remove(st *Stream) {
	delete(s.streams, st.id)
	if i := slices.Index(s.turn, st.id); i >= 0 {
		s.turn = slices.Delete(s.turn, i, i+1)
	}
}

// settle moves a stream on: it returns true when the stream is over.
func (st *Stream) settle(now time.Time, timeout time.Duration) bool {
	if st.mustReset {
		if !st.stalled.IsZero() && !now.Before(st.stalled) {
			st.stalled = time.Time{}
			st.tries++
		}
		return false // until the peer confirms
	}
	if st.err != nil {
		return true
	}
	if st.ended && st.finished {
		return !st.owe // the peer was told that all arrived
	}
	if st.closed {
		if st.linger.IsZero() {
			st.linger = now.Add(lingerTime)
		}
		if st.ended || now.After(st.linger) {
			st.reset("closed")
			return false
		}
	}
	if st.next > st.base || st.endSent && !st.ended || st.opening && st.openSent {
		if st.stalled.IsZero() {
			st.stalled = now.Add(timeout << min(st.tries, 4))
		} else if !now.Before(st.stalled) {
			st.tries++
			st.rewind()
			st.openSent = false
		}
	}
	return false
}

// wants reports whether the stream has something to send.
func (st *Stream) wants() bool {
	if st.mustReset || st.err != nil {
		return false
	}
	end := st.base + uint64(len(st.out))
	return st.opening && !st.openSent || st.next < min(end, st.limit) || st.ending && !st.ended && !st.endSent && st.next == end
}

// fill makes a message of at most room bytes of the stream.
func (st *Stream) fill(room int) (data, bool) {
	m := data{stream: st.id, offset: st.next}
	if st.opening && st.next == 0 {
		m.flags |= dataOpen
		m.target = st.target
	}
	overhead := 32 + len(m.target)
	if room <= overhead {
		return m, false
	}
	end := st.base + uint64(len(st.out))
	n := min(min(end, st.limit)-min(st.next, st.limit), uint64(room-overhead))
	from := st.next - st.base
	m.bytes = st.out[from : from+n]
	st.next += n
	st.openSent = true
	if st.ending && st.next == end {
		m.flags |= dataEnd
		st.endSent = true
	}
	return m, true
}

// credit tells the peer how far the stream arrived.
func (st *Stream) credit() credit {
	m := credit{stream: st.id, received: st.received, limit: st.allowed()}
	if st.closed {
		m.limit = st.granted // nobody reads: the peer is reset when ours is delivered
	}
	if st.gap {
		m.flags |= creditGap
	}
	if st.finished {
		m.flags |= creditEnded
	}
	st.granted = max(st.granted, m.limit)
	st.owe, st.gap = false, false
	return m
}
