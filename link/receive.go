package link

import "time"

// This file is what a session does with frames that arrive.

// Receive takes a frame that arrived. An error says why it was of no use; the session goes on.
func (s *Session) Receive(frame []byte, now time.Time) error {
	s.mu.Lock()
	defer s.unlock()
	if s.ended != nil {
		return s.ended
	}
	messages, lost, err := s.open.open(frame)
	if err != nil {
		return err
	}
	s.lastHeard = now
	s.pinged, s.unanswered = time.Time{}, time.Time{}
	if lost {
		s.lost()
	}
	err = s.messages(messages, now)
	s.settle(now)
	s.kick()
	return err
}

// lost is called when a frame did not arrive: tell what we have, so that the source knows.
func (s *Session) lost() {
	s.parts = incoming{}
	for _, r := range s.replicas {
		r.owe, r.synced = true, false
	}
}

func (s *Session) messages(b []byte, now time.Time) error {
	d := decoder{b: b}
	paced := false
	for len(d.b) > 0 {
		kind := d.byte()
		body := d.bytes()
		if d.err != nil {
			return d.err
		}
		switch kind {
		case typePart, typeItems, typeData:
			paced = true
		}
		if err := s.message(kind, body, now); err != nil {
			return err
		}
	}
	if paced {
		s.ackNewest, s.ackAt = s.open.counter, now
		s.ackPending++
	}
	return nil
}

func (s *Session) message(kind byte, body []byte, now time.Time) error {
	switch kind {
	case typeAck:
		m, err := decodeAck(body)
		if err == nil && m.counter <= s.seal.counter {
			s.pace.acked(m.counter, m.held, now)
		}
		return err
	case typePing:
		return s.receivePing(body)
	case typePong:
		return s.receivePong(body)
	case typeHave:
		m, err := decodeHave(body)
		if err != nil {
			return err
		}
		if m.flags&haveResume != 0 {
			s.pace.forget()
		}
		if r := s.source(m.set); r != nil {
			r.have(m, s.salt())
			s.report(r)
		}
	case typeAsk:
		m, err := decodeAsk(body)
		if err != nil {
			return err
		}
		if r := s.replica(m.set); r != nil {
			if r.owe = r.owe || m.kind == askRoot; m.kind != askRoot {
				r.asked = &m
			}
		}
	case typeTell:
		m, err := decodeTell(body)
		if err != nil {
			return err
		}
		if r := s.source(m.set); r != nil {
			return r.tell(m, s.salt())
		}
	case typeItems:
		return s.receiveItems(body)
	case typePart:
		return s.receivePart(body, now)
	case typeData:
		m, err := decodeData(body)
		if err != nil {
			return err
		}
		s.receiveData(m, now)
	case typeCredit:
		m, err := decodeCredit(body)
		if err != nil {
			return err
		}
		s.receiveCredit(m, now)
	case typeReset:
		m, err := decodeReset(body)
		if err != nil {
			return err
		}
		s.receiveReset(m)
	default:
		return s.receiveControl(kind, body)
	}
	return nil
}

// receiveControl takes what concerns the session itself. Unknown messages are for later versions.
func (s *Session) receiveControl(kind byte, body []byte) error {
	switch kind {
	case typeAccept, typeRefuse:
		if !s.cfg.Agent {
			return errMalformed
		}
		g, err := decodeGreetingMessage(kind, body)
		if err != nil {
			return err
		}
		s.started = s.started || kind == typeAccept
		if s.cfg.Greeted != nil {
			s.after = append(s.after, func() { s.cfg.Greeted(g) })
		}
	case typeRenew:
		if s.cfg.Renew != nil {
			s.after = append(s.after, s.cfg.Renew)
		}
	case typeHold, typeHeld:
		return s.receiveHold(kind, body)
	case typeCert:
		if s.cfg.Certificate != nil {
			der := append([]byte(nil), body...)
			s.after = append(s.after, func() { s.cfg.Certificate(der) })
		}
	}
	return nil
}

func (s *Session) receivePing(body []byte) error {
	if len(body) != pingSize {
		return errMalformed
	}
	s.pong = true
	if s.combined() == [pingSize]byte(body) {
		return nil
	}
	for _, r := range s.replicas {
		r.owe = true
	}
	for _, r := range s.sources {
		if r.idle() && !r.has() {
			r.restart(s.salt())
		}
	}
	return nil
}

func (s *Session) receivePong(body []byte) error {
	d := decoder{b: body}
	t := time.UnixMilli(int64(d.uvarint()))
	if err := d.end(); err != nil {
		return err
	}
	if s.cfg.Time != nil {
		s.after = append(s.after, func() { s.cfg.Time(t) })
	}
	return nil
}

// receiveHold: the server answers with the agent's own stamp, so that a delay on the way makes the agent believe that it
// was heard of earlier, and never later, than it was.
func (s *Session) receiveHold(kind byte, body []byte) error {
	d := decoder{b: body}
	stamp := time.Duration(d.uvarint())
	if err := d.end(); err != nil || stamp <= 0 {
		return errMalformed
	}
	switch {
	case kind == typeHeld && s.cfg.Agent:
		s.held = max(s.held, stamp)
	case kind == typeHold && !s.cfg.Agent:
		s.hold = max(s.hold, stamp)
		if s.cfg.Held != nil {
			s.after = append(s.after, s.cfg.Held)
		}
	}
	return nil
}

func (s *Session) receiveItems(body []byte) error {
	m, err := decodeItems(body, inflate)
	if err != nil {
		return err
	}
	if r := s.replica(m.set); r != nil {
		r.receive(m, sizeOf(m))
	}
	return nil
}

func (s *Session) receivePart(body []byte, now time.Time) error {
	m, err := decodePart(body)
	if err != nil {
		return err
	}
	p := &s.parts
	if m.offset == 0 {
		if m.total > maxMessage {
			return errMalformed
		}
		*p = incoming{id: m.id, total: m.total}
	}
	if m.id != p.id || m.total != p.total || m.offset != uint64(len(p.buf)) || m.offset+uint64(len(m.data)) > m.total {
		*p = incoming{}
		return nil
	}
	p.buf = append(p.buf, m.data...)
	if uint64(len(p.buf)) < p.total {
		return nil
	}
	whole := p.buf
	*p = incoming{}
	d := decoder{b: whole}
	kind, inner := d.byte(), d.bytes()
	if err := d.end(); err != nil || kind == typePart {
		return errMalformed
	}
	return s.message(kind, inner, now)
}
