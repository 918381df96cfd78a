package api

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

const (
	// defaultPatience is how long what a client is sent may lie unread. Then its request ends, and with HTTP/1.1 its connection.
	defaultPatience = time.Minute
	// piece is what of a write has to be taken in that time, in bytes: who reads, however slowly, is not cut off.
	piece = 16 << 10
	// restOfBody is how long a connection waits for what its client said that it would send, and that nobody reads any more.
	restOfBody = 5 * time.Second
)

// patient bounds how long a client that stops to read, or to send, keeps what its request holds: the deadline of a request stops its
// handler, but neither a write that nobody takes nor a read of what never comes. A watch that is cut off begins again, as after any
// break. Logs and other streams are left alone, because somebody may look at one page of them for long, and what waits for him is
// bounded.
func patient(h http.Handler, patience time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := &patientWriter{ResponseWriter: w, control: http.NewResponseController(w)}
		if info, known := request.RequestInfoFrom(r.Context()); known && (info.Verb == "watch" || !longRunning(r, info)) {
			p.patience = patience
		}
		if r.ProtoMajor == 1 { // net/http reads the rest of a body and writes the rest of an answer when the handler has returned
			defer func() {
				if !p.hijacked {
					now := time.Now()
					p.control.SetReadDeadline(now.Add(restOfBody))
					p.control.SetWriteDeadline(now.Add(patience))
				}
			}()
		}
		h.ServeHTTP(responsewriter.WrapForHTTP1Or2(p), r)
	})
}

// patientWriter gives up a write that is not taken in time.
type patientWriter struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration // 0: without end
	hijacked bool

	mu      sync.Mutex
	writing bool
	since   time.Time // of writing
	timer   *time.Timer
}

func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *patientWriter) Write(b []byte) (int, error) {
	return inPieces(b, func(b []byte) (int, error) {
		w.begin()
		defer w.end()
		return w.ResponseWriter.Write(b)
	})
}

// inPieces writes all of b, of which each piece has a deadline of its own.
func inPieces(b []byte, write func([]byte) (int, error)) (written int, err error) {
	for {
		n, err := write(b[:min(len(b), piece)])
		written += n
		if b = b[n:]; err != nil || len(b) == 0 {
			return written, err
		}
	}
}

func (w *patientWriter) Flush() {
	w.begin()
	defer w.end()
	w.control.Flush()
}

// Hijack is how a watch over a WebSocket begins, too.
func (w *patientWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.hijacked = true
	if w.patience > 0 {
		conn = &patientConn{conn, w.patience}
		rw.Writer.Reset(conn)
	}
	return conn, rw, nil
}

// begin sets a timer rather than a deadline at each write: to an HTTP/2 stream a deadline is a message.
func (w *patientWriter) begin() {
	if w.patience == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing, w.since = true, time.Now()
	if w.timer == nil {
		w.timer = time.AfterFunc(w.patience, w.giveUp)
		return
	}
	w.timer.Reset(w.patience)
}

func (w *patientWriter) end() {
	if w.patience == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
	w.timer.Stop()
}

func (w *patientWriter) giveUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing && time.Since(w.since) >= w.patience { // else the timer is of the write before
		w.control.SetWriteDeadline(time.Unix(1, 0)) // it was long ago: the write fails now
	}
}

// patientConn is a connection that was taken over from net/http.
type patientConn struct {
	net.Conn
	patience time.Duration
}

func (c *patientConn) Write(b []byte) (int, error) {
	return inPieces(b, func(b []byte) (int, error) {
		if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
			return 0, err
		}
		return c.Conn.Write(b)
	})
}
