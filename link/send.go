package link

import "time"

// maxPlain is how many bytes of messages fit into a frame.
const maxPlain = MaxFrame - sealOverhead

// packer collects the messages of a frame.
type packer struct {
	encoder
	paced [paceClasses]int
}

func (p *packer) room() int { return maxPlain - len(p.b) }

// put adds a message if there is room for it.
func (p *packer) put(kind byte, body []byte) bool {
	if messageSize(len(body)) > p.room() {
		return false
	}
	p.message(kind, body)
	return true
}

func (p *packer) putPaced(kind byte, body []byte, class paceClass) bool {
	before := len(p.b)
	if !p.put(kind, body) {
		return false
	}
	p.paced[class] += len(p.b) - before
	return true
}

// Next returns the next frame to send, if there is one now. What is most urgent goes first:
// what keeps the session going, then items of sets, then bytes of streams.
func (s *Session) Next(now time.Time) ([]byte, bool) {
	s.mu.Lock()
	defer s.unlock()
	if s.ended != nil || !s.started {
		return nil, false
	}
	s.settle(now)
	var p packer
	if s.ackPending > 0 {
		p.put(typeAck, ack{s.ackNewest, now.Sub(s.ackAt)}.encode())
	}
	alone := len(p.b)
	s.putControl(&p, now)
	s.putSets(&p, now)
	s.putItems(&p, now)
	s.putStreams(&p, now)
	if len(p.b) == 0 || len(p.b) == alone && alone > 0 && !s.ackDue(now) {
		return nil, false
	}
	if s.ackPending > 0 {
		s.putCredits(&p)
	}
	s.ackPending = 0
	frame := s.seal.seal(p.b)
	if p.paced != [paceClasses]int{} {
		s.pace.send(s.seal.counter, p.paced, now)
	}
	s.lastSent = now
	if s.unanswered.IsZero() {
		s.unanswered = now
	}
	return frame, true
}

// keepalive is when the agent asks for a sign of life: when it was silent for so long, or has got no answer for so long. What it
// sends again and again into a connection that is dead does not put that off.
func (s *Session) keepalive() time.Time {
	at := s.lastSent
	if s.pinged.IsZero() && !s.unanswered.IsZero() && s.unanswered.Before(at) {
		at = s.unanswered
	}
	return at.Add(KeepaliveInterval)
}

// ackDue: every second paced frame is acknowledged at once, a single one after a moment, with
// whatever else there is to say by then.
func (s *Session) ackDue(now time.Time) bool {
	return s.ackPending >= 2 || s.ackPending > 0 && now.Sub(s.ackAt) >= ackDelay
}

// settle looks at the clock.
func (s *Session) settle(now time.Time) {
	s.pace.expire(now)
	for _, r := range s.sources {
		if !r.idle() && r.deadline.IsZero() {
			r.expect(now, s.pace.timeout())
		}
		r.tick(now, s.salt())
	}
	if s.cfg.Agent && !now.Before(s.keepalive()) {
		s.ping = true
		for _, r := range s.replicas {
			r.owe = r.owe || !r.synced // the word that it is equal was lost
		}
	}
	for _, st := range s.streams {
		if st.settle(now, s.pace.timeout()) {
			s.remove(st)
		}
	}
}

func (s *Session) putControl(p *packer, now time.Time) {
	if s.greet {
		s.greet = !p.put(s.cfg.Greeting.kind(), s.cfg.Greeting.encode())
	}
	if s.ping {
		d := s.combined()
		s.ping = !p.put(typePing, d[:])
		if s.pinged.IsZero() {
			s.pinged = now
		}
	}
	if s.pong {
		var e encoder
		e.uvarint(uint64(now.UnixMilli()))
		s.pong = !p.put(typePong, e.b)
	}
	s.putHold(p, now)
	if s.renew {
		s.renew = !p.put(typeRenew, nil)
	}
	if s.certificate != nil && p.put(typeCert, s.certificate) {
		s.certificate = nil
	}
}

// putHold asks the server to say that it heard of the node, once in a keepalive: with what is sent anyway.
func (s *Session) putHold(p *packer, now time.Time) {
	stamp, kind := s.hold, byte(typeHeld)
	if s.cfg.Agent && s.cfg.Stamp != nil && (s.holdAt.IsZero() || now.Sub(s.holdAt) >= holdInterval) {
		stamp, kind = s.cfg.Stamp(), typeHold
	}
	if stamp == 0 {
		return
	}
	var e encoder
	e.uvarint(uint64(stamp))
	if p.put(kind, e.b) {
		s.hold, s.holdAt = 0, now
	}
}

// putSets puts what is said about sets, but not their items.
func (s *Session) putSets(p *packer, now time.Time) {
	for _, r := range s.replicas {
		if r.asked != nil {
			t := r.answer(r.asked)
			body := t.encode()
			switch {
			case p.put(typeTell, body):
				r.asked = nil
			case s.large == nil && messageSize(len(body)) > maxPlain:
				s.sendLarge(typeTell, body)
				r.asked = nil
			}
		}
		if r.owe && p.put(typeHave, r.have().encode()) {
			r.owe, r.resume = false, false
		}
	}
	for _, r := range s.sources {
		if r.open && r.unasked && p.put(typeAsk, r.question.encode()) {
			r.unasked = false
			r.expect(now, s.pace.timeout())
		}
	}
}

func (s *Session) sendLarge(kind byte, body []byte) {
	var e encoder
	e.message(kind, body)
	s.largeID++
	s.large = &outgoing{id: s.largeID, message: e.b}
}

// minPiece bounds from below how a stream is cut: many small pieces find a slow link's pace better
// than few large ones, which are a queue by themselves.
const minPiece = 2 << 10

// minRoom is what must be left of a frame to begin with items or stream bytes.
const minRoom = 512

func (s *Session) putItems(p *packer, now time.Time) {
	for p.room() > minRoom && s.pace.room(paceItems)-p.paced[paceItems] > 0 {
		if s.large != nil {
			s.putPart(p)
			continue
		}
		if !s.putGroup(p, now) {
			return
		}
	}
}

// putGroup puts the next items of the first source that has some.
func (s *Session) putGroup(p *packer, now time.Time) bool {
	for _, r := range s.sources {
		if !r.has() {
			continue
		}
		compress := deflateStrong
		if s.cfg.Agent {
			compress = deflateSmall
		}
		body := r.build(s.salt(), compress)
		if body == nil {
			continue // it has to compare first; asked in the next frame
		}
		r.deadline = time.Time{}
		if !r.idle() {
			r.expect(now, s.pace.timeout())
		}
		if !p.putPaced(typeItems, body, paceItems) {
			s.sendLarge(typeItems, body)
		}
		return true
	}
	return false
}

func (s *Session) putPart(p *packer) {
	o := s.large
	m := part{id: o.id, offset: uint64(o.offset), total: uint64(len(o.message))}
	const overhead = 24
	n := min(len(o.message)-o.offset, p.room()-overhead)
	m.data = o.message[o.offset : o.offset+n]
	p.putPaced(typePart, m.encode(), paceItems)
	if o.offset += n; o.offset == len(o.message) {
		s.large = nil
	}
}

// putStreams puts resets, and bytes of streams in turn.
func (s *Session) putStreams(p *packer, now time.Time) {
	for len(s.resets) > 0 && p.put(typeReset, s.resets[0].encode()) {
		s.resets = s.resets[1:]
	}
	for _, st := range s.streams {
		if st.mustReset && st.stalled.IsZero() && p.put(typeReset, reset{st.id, st.resetting}.encode()) {
			st.stalled = now.Add(s.pace.timeout() << min(st.tries, 4))
		}
	}
	s.putUrgentCredits(p)
	for range len(s.turn) {
		if p.room() < minRoom {
			return
		}
		st := s.streams[s.turn[0]]
		s.turn = append(s.turn[1:], s.turn[0])
		if !st.wants() {
			continue
		}
		room := min(p.room(), s.pace.room(paceData)-p.paced[paceItems]-p.paced[paceData])
		piece := max(int(s.pace.window)/8, minPiece)
		if m, ok := st.fill(min(room, piece)); ok {
			p.putPaced(typeData, m.encode(), paceData)
		} else {
			return
		}
	}
}

// putCredits tells how far streams arrived; it goes with acks.
func (s *Session) putCredits(p *packer) {
	for _, st := range s.streams {
		if st.owe && !st.mustReset && p.put(typeCredit, st.credit().encode()) {
			continue
		}
	}
}

// putUrgentCredits are those that the peer waits for.
func (s *Session) putUrgentCredits(p *packer) {
	for _, st := range s.streams {
		if st.owe && !st.mustReset && (st.gap || st.finished || st.allowed()-st.granted >= streamWindow/2) {
			p.put(typeCredit, st.credit().encode())
		}
	}
}

// Deadline is when Next should be called again if nothing happens before; zero: not at all.
func (s *Session) Deadline(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if s.ended != nil || !s.started {
		return at
	}
	if s.cfg.Agent {
		sooner(s.keepalive())
		if late := s.pinged.Add(pongTime + time.Millisecond); !s.pinged.IsZero() && late.After(now) {
			sooner(late)
		}
	}
	if s.ackPending > 0 {
		sooner(s.ackAt.Add(ackDelay))
	}
	sooner(s.pace.expires())
	for _, r := range s.sources {
		sooner(r.deadline)
	}
	for _, st := range s.streams {
		sooner(st.stalled)
		if !st.mustReset {
			sooner(st.linger)
		}
	}
	return at
}
