package audit

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	flushAfter = 5 * time.Second // from the first event of a group
	flushAt    = 64 << 10        // bytes
)

// grouped writes lines in groups.
type grouped struct {
	out   io.WriteCloser
	log   *slog.Logger
	after time.Duration

	mu     sync.Mutex
	lines  []byte
	timer  *time.Timer // nil while nothing is held back
	lost   int         // events, since a write failed
	torn   bool        // the file ends within a line
	closed bool        // nothing is held back any more
}

func newGrouped(out io.WriteCloser, log *slog.Logger) *grouped {
	return &grouped{out: out, log: log, after: flushAfter}
}

// Write takes one event. It never fails: who asked the API is not to be refused because of it.
func (g *grouped) Write(line []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(line) >= flushAt { // it may be too much for a file: then it is lost alone
		g.flush()
	}
	g.lines = append(g.lines, line...)
	switch {
	case len(g.lines) >= flushAt || g.closed:
		g.flush()
	case g.timer == nil:
		g.timer = time.AfterFunc(g.after, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.flush()
		})
	}
	return len(line), nil
}

// flush is called with mu held.
func (g *grouped) flush() {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	if len(g.lines) == 0 {
		return
	}
	if g.torn {
		g.lines = append([]byte("\n"), g.lines...)
	}
	n, err := g.out.Write(g.lines)
	if n > 0 {
		g.torn = g.lines[n-1] != '\n'
	}
	switch {
	case err != nil && g.lost == 0:
		g.log.Error("the audit log cannot be written: events are lost until it can", "err", err)
		fallthrough
	case err != nil:
		g.lost += bytes.Count(g.lines[n:], []byte("\n"))
	case g.lost > 0:
		g.log.Warn("the audit log is written again", "lost", fmt.Sprintf("%d events", g.lost))
		g.lost = 0
	}
	g.lines = nil // a group after a storm would keep its room
}

// Close writes what is held back. Later events, of programs that end after the API, are written at once; Close may be called again.
func (g *grouped) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flush()
	g.closed = true
	return g.out.Close()
}
