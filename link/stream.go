package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Bounds of streams.
const (
	// streamWindow is how many bytes of a stream either side holds: sent and not yet acknowledged,
	// or received and not yet read.
	streamWindow = 64 << 10
	maxStreams   = 128 // opened by the peer, at a time
	maxTarget    = 256
	// lingerTime is how long a closed stream may take to deliver what was written.
	lingerTime = 30 * time.Second
)

// ErrSessionEnded is the error of streams whose session was replaced or lost.
var ErrSessionEnded = errors.New("link: the connection to the node was lost")

// ErrTooManyStreams is the error of Open when there are too many.
var ErrTooManyStreams = errors.New("link: too many streams")

// Targets of streams: what the other side connects them to.
const (
	TargetAPI     = "api"     // at the server: its API
	TargetKubelet = "kubelet" // at a node: the kubelet's API
	TargetTCP     = "tcp:"    // at a node, followed by address and port: a pod
)

// Stream is one of the byte streams of a session; it is a net.Conn. All its state is guarded by
// the session's mutex.
type Stream struct {
	s      *Session
	id     uint64
	target string

	out      []byte // from offset base: what the peer has not acknowledged
	base     uint64
	next     uint64 // offset that is sent next
	limit    uint64 // the peer takes bytes before this offset
	opening  bool   // the peer may not know the stream yet
	openSent bool
	rewound  time.Time // because the peer reported a gap
	ending   bool      // nothing will be written any more
	endSent  bool
	ended    bool // and the peer has it all
	stalled  time.Time
	tries    int

	in       []byte // received and not read
	received uint64
	granted  uint64 // the limit that the peer was told
	owe      bool   // credit is to be sent
	gap      bool
	finished bool // the peer has ended its direction, and everything arrived

	closed    bool // by our side
	linger    time.Time
	resetting string // the reset to be sent
	mustReset bool
	err       error

	wake          sync.Cond // on the session's mutex
	readDeadline  deadline
	writeDeadline deadline
}

func (s *Session) newStream(id uint64, target string) *Stream {
	st := &Stream{s: s, id: id, target: target, limit: streamWindow, granted: streamWindow}
	st.wake.L = &s.mu
	s.streams[id] = st
	s.turn = append(s.turn, id)
	return st
}

// Target is what the stream was opened for.
func (st *Stream) Target() string { return st.target }

func (st *Stream) Read(p []byte) (int, error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	for {
		if st.closed {
			return 0, net.ErrClosed
		}
		if len(st.in) > 0 {
			n := copy(p, st.in)
			st.in = shift(st.in, n)
			st.grant()
			return n, nil
		}
		if st.finished {
			return 0, io.EOF
		}
		if st.err != nil {
			return 0, st.err
		}
		if st.readDeadline.passed {
			return 0, os.ErrDeadlineExceeded
		}
		if len(p) == 0 {
			return 0, nil
		}
		st.wake.Wait()
	}
}

// grant lets the peer send more when half of the window was read.
func (st *Stream) grant() {
	if !st.finished && st.allowed()-st.granted >= streamWindow/2 {
		st.owe = true
		st.s.kick()
	}
}

// allowed is the offset up to which there is room.
func (st *Stream) allowed() uint64 { return st.received - uint64(len(st.in)) + streamWindow }

func (st *Stream) Write(p []byte) (n int, err error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	for {
		if err := st.writable(); err != nil {
			return n, err
		}
		if len(p) == 0 {
			return n, nil
		}
		if room := streamWindow - len(st.out); room > 0 {
			m := min(room, len(p))
			st.out = append(st.out, p[:m]...)
			p = p[m:]
			n += m
			st.s.kick()
			continue
		}
		st.wake.Wait()
	}
}

func (st *Stream) writable() error {
	switch {
	case st.closed || st.ending:
		return net.ErrClosed
	case st.err != nil:
		return st.err
	case st.writeDeadline.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// CloseWrite ends the direction to the peer, which reads what was written and then io.EOF.
func (st *Stream) CloseWrite() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	st.ending = true
	st.s.kick()
	return nil
}

// Close ends both directions; what was written is still delivered.
func (st *Stream) Close() error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	st.closed, st.ending = true, true
	st.in = nil
	st.readDeadline.stop()
	st.writeDeadline.stop()
	st.wake.Broadcast()
	st.s.kick()
	return nil
}

// Abort ends both directions at once; the peer gets reason as an error.
func (st *Stream) Abort(reason error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.reset(reason.Error())
	st.closed = true
	st.fail(fmt.Errorf("link: stream aborted: %w", reason))
	st.s.kick()
}

func (st *Stream) reset(reason string) {
	if reason == "" {
		reason = "closed"
	}
	st.mustReset, st.resetting = true, reason
	st.stalled = time.Time{}
	st.out, st.in = nil, nil
}

// fail ends the stream with an error for both readers and writers.
func (st *Stream) fail(err error) {
	if st.err == nil {
		st.err = err
	}
	st.out = nil
	st.wake.Broadcast()
}

type streamAddr string

func (streamAddr) Network() string  { return "link" }
func (a streamAddr) String() string { return string(a) }

// LocalAddr and RemoteAddr name the stream, not a place.
func (st *Stream) LocalAddr() net.Addr  { return streamAddr("link") }
func (st *Stream) RemoteAddr() net.Addr { return streamAddr(st.target) }

// deadline is one of the two deadlines of a stream.
type deadline struct {
	timer  *time.Timer
	passed bool
	turn   int
}

func (d *deadline) stop() {
	d.turn++
	d.passed = false
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (d *deadline) set(st *Stream, t time.Time) {
	d.stop()
	if t.IsZero() {
		return
	}
	turn := d.turn
	fire := func() {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		if d.turn == turn {
			d.passed = true
			st.wake.Broadcast()
		}
	}
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, fire)
		return
	}
	d.passed = true
	st.wake.Broadcast()
}

// SetDeadline sets both deadlines.
func (st *Stream) SetDeadline(t time.Time) error {
	if err := st.SetReadDeadline(t); err != nil {
		return err
	}
	return st.SetWriteDeadline(t)
}

// SetReadDeadline sets when reading gives up.
func (st *Stream) SetReadDeadline(t time.Time) error {
	return st.setDeadline(&st.readDeadline, t)
}

// SetWriteDeadline sets when writing gives up.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	return st.setDeadline(&st.writeDeadline, t)
}

func (st *Stream) setDeadline(d *deadline, t time.Time) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	d.set(st, t)
	return nil
}

// shift removes n bytes from the front of a buffer, and gives memory back when it is empty.
func shift(b []byte, n int) []byte {
	if n == len(b) {
		return nil
	}
	if cap(b)-n < 2*(len(b)-n) || n < 4096 {
		return b[n:]
	}
	return append([]byte(nil), b[n:]...)
}
