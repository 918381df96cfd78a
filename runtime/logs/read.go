package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Options say what is read.
type Options struct {
	Follow     bool
	Ended      <-chan struct{} // with Follow: closed when the container has ended; reading stops at the end of the log
	Tail       int             // lines from the end; negative is all, and so is zero unless HasTail
	HasTail    bool
	Since      time.Time
	Timestamps bool
	Limit      int64 // bytes; 0 is no limit
}

// Read copies a container's log to stdout and stderr, of which either may be nil. Where writers are the same, lines
// arrive in the order in which they were written.
func Read(ctx context.Context, path string, o Options, stdout, stderr io.Writer) error {
	r := reader{opts: o, path: path, out: [2]sink{{w: stdout, fresh: true}, {w: stderr, fresh: true}}}
	err := r.run(ctx)
	if r.file != nil {
		r.file.Close()
	}
	if errors.Is(err, errLimit) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log %s: %w", path, err)
	}
	return nil
}

var errLimit = errors.New("limit reached")

type sink struct {
	w     io.Writer
	fresh bool // at the start of a line
}

type reader struct {
	opts    Options
	path    string
	file    *os.File
	buf     []byte // read, not yet consumed
	skip    bool   // in a line that is too long to be one
	written int64
	out     [2]sink
}

// maxLine is more than the shim ever writes in one line.
const maxLine = 64 << 10

func (r *reader) run(ctx context.Context) error {
	if err := r.start(); err != nil {
		return err
	}
	var w *watcher
	if r.opts.Follow {
		var err error
		if w, err = watch(r.path); err != nil {
			return err
		}
		defer w.close()
	}
	for {
		over := !r.opts.Follow || closed(r.opts.Ended) // before the last look, which then misses nothing
		if err := r.drain(ctx); err != nil {
			return err
		}
		if moved, err := r.next(ctx); err != nil {
			return err
		} else if moved {
			continue
		}
		if over {
			return nil
		}
		if err := w.wait(ctx, r.opts.Ended); err != nil {
			return err
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// start opens the file, and the place in it, where reading begins.
func (r *reader) start() error {
	files := r.files()
	if len(files) == 0 {
		return &fs.PathError{Op: "open", Path: r.path, Err: fs.ErrNotExist}
	}
	tail := r.opts.Tail
	if tail < 0 || (tail == 0 && !r.opts.HasTail) {
		f, err := os.Open(files[0])
		r.file = f
		return err
	}
	for i := len(files) - 1; ; i-- {
		f, err := os.Open(files[i])
		if err != nil {
			return err
		}
		at, missing, err := lastLines(f, tail)
		if err == nil && (missing == 0 || i == 0) {
			_, err = f.Seek(at, io.SeekStart)
			r.file = f
			return err
		}
		f.Close()
		if err != nil {
			return err
		}
		tail = missing
	}
}

// files lists the log's files that exist, the oldest first.
func (r *reader) files() []string {
	var files []string
	for n := 0; n < 100; n++ {
		name := rotated(r.path, n)
		if _, err := os.Stat(name); err == nil {
			files = append([]string{name}, files...)
		} else if n > 0 {
			break
		}
	}
	return files
}

func rotated(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}

// lastLines finds where the last n lines begin; missing is how many more there should have been.
func lastLines(f *os.File, n int) (at int64, missing int, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return end, 0, err
	}
	buf := make([]byte, 16<<10)
	found := -1 // the newline that ends the last line does not begin one
	for at = end; at > 0; {
		size := min(at, int64(len(buf)))
		if _, err := f.ReadAt(buf[:size], at-size); err != nil {
			return 0, 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				if found < 0 {
					found = 0
				}
				continue
			}
			if found++; found == n {
				return at - size + i + 1, 0, nil
			}
		}
		at -= size
	}
	return 0, n - max(found+1, 0), nil
}

// drain consumes what the open file has.
func (r *reader) drain(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if cap(r.buf)-len(r.buf) < 8<<10 {
			r.buf = append(make([]byte, 0, len(r.buf)+32<<10), r.buf...)
		}
		n, err := r.file.Read(r.buf[len(r.buf):cap(r.buf)])
		r.buf = r.buf[:len(r.buf)+n]
		if err := r.consume(); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *reader) consume() error {
	for {
		line, rest, ok := bytes.Cut(r.buf, []byte{'\n'})
		if !ok {
			if len(r.buf) > maxLine {
				r.buf, r.skip = nil, true
			}
			return nil
		}
		if !r.skip {
			if err := r.emit(line); err != nil {
				return err
			}
		}
		r.buf, r.skip = rest, false
	}
}

func (r *reader) emit(b []byte) error {
	l, err := Parse(b)
	if err != nil || (!r.opts.Since.IsZero() && l.Time.Before(r.opts.Since)) {
		return nil
	}
	s := &r.out[0]
	if l.Stderr {
		s = &r.out[1]
	}
	if s.w == nil {
		return nil
	}
	text := make([]byte, 0, len(l.Stamp)+len(l.Text)+2)
	if r.opts.Timestamps && s.fresh {
		text = append(append(text, l.Stamp...), ' ')
	}
	text = append(text, l.Text...)
	if !l.Partial {
		text = append(text, '\n')
	}
	s.fresh = !l.Partial
	full := false
	if left := r.opts.Limit - r.written; r.opts.Limit > 0 && int64(len(text)) >= left {
		text, full = text[:left], true
	}
	r.written += int64(len(text))
	if _, err := s.w.Write(text); err != nil {
		return err
	}
	if full {
		return errLimit
	}
	return nil
}

// next goes on with the file that follows the open one, if that has been rotated away.
func (r *reader) next(ctx context.Context) (bool, error) {
	mine, err := r.file.Stat()
	if err != nil {
		return false, err
	}
	newer := ""
	for n := 0; n < 100; n++ {
		st, err := os.Stat(rotated(r.path, n))
		if err != nil {
			if n > 0 {
				break // the open file is gone: the oldest that is left follows it
			}
			continue
		}
		if os.SameFile(mine, st) {
			if newer == "" {
				return false, nil
			}
			break
		}
		newer = rotated(r.path, n)
	}
	if newer == "" {
		return false, nil // removed; what is open has been read
	}
	if err := r.drain(ctx); err != nil { // what was written to it before the rotation
		return false, err
	}
	f, err := os.Open(newer)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil // rotated once more: look again
	}
	if err != nil {
		return false, err
	}
	r.file.Close()
	r.file, r.buf = f, nil
	return true, nil
}
