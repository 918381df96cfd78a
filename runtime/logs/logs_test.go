package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func stampAt(i int) string {
	return time.Unix(1700000000+int64(i), 123).UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
}

func writeLog(t testing.TB, path string, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	writeLog(t, path+".2", stampAt(0)+" stdout F a", stampAt(1)+" stderr F b")
	writeLog(t, path+".1", stampAt(2)+" stdout P c", stampAt(3)+" stdout F d")
	writeLog(t, path, "torn \x00\x00", stampAt(4)+" stdout F:x e", stampAt(5)+" stdout F ", stampAt(6)+" stderr F g")
	for _, tt := range []struct {
		name        string
		o           Options
		out, stderr string
	}{
		{"all", Options{}, "a\ncd\ne\n\n", "b\ng\n"},
		{"negative tail", Options{Tail: -1, HasTail: true}, "a\ncd\ne\n\n", "b\ng\n"},
		{"no tail", Options{HasTail: true}, "", ""},
		{"one", Options{Tail: 1, HasTail: true}, "", "g\n"},
		{"over files", Options{Tail: 5, HasTail: true}, "d\ne\n\n", "g\n"},
		{"more than there is", Options{Tail: 100, HasTail: true}, "a\ncd\ne\n\n", "b\ng\n"},
		{"since", Options{Since: time.Unix(1700000004, 0)}, "e\n\n", "g\n"},
		{"limit", Options{Limit: 4}, "a\nc", "b\n"},
		{"timestamps", Options{Timestamps: true, Since: time.Unix(1700000002, 0)}, stampAt(2) + " cd\n" + stampAt(4) + " e\n" + stampAt(5) + " \n", stampAt(6) + " g\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if err := Read(t.Context(), path, tt.o, &out, &errs); err != nil {
				t.Fatal(err)
			}
			if tt.name == "limit" { // both together are limited
				if out.Len()+errs.Len() != 4 {
					t.Errorf("%d bytes", out.Len()+errs.Len())
				}
				return
			}
			if out.String() != tt.out || errs.String() != tt.stderr {
				t.Errorf("%q, %q", out.String(), errs.String())
			}
		})
	}
	var one bytes.Buffer
	if err := Read(t.Context(), path, Options{}, &one, nil); err != nil || one.String() != "a\ncd\ne\n\n" {
		t.Errorf("stdout alone: %v %q", err, one.String())
	}
	if err := Read(t.Context(), filepath.Join(dir, "none"), Options{}, nil, nil); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("no file: %v", err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		if os.IsNotExist(err) {
			return err
		}
		err = u.Unwrap()
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

// TestFollow writes and rotates while several readers follow: each sees every line once.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	writeLog(t, path, stampAt(0)+" stdout F first")
	ended := make(chan struct{})
	var bufs [3]safeBuffer
	var readers sync.WaitGroup
	for i := range bufs {
		readers.Go(func() {
			if err := Read(context.Background(), path, Options{Follow: true, Ended: ended}, &bufs[i], nil); err != nil {
				t.Error(err)
			}
		})
	}
	want := "first\n"
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		text := fmt.Sprintf("line %d", i)
		want += text + "\n"
		whole := stampAt(i) + " stdout F " + text + "\n"
		half := i % len(whole) // a reader may see half a line
		_, _ = f.WriteString(whole[:half])
		_, _ = f.WriteString(whole[half:])
		if i%300 == 299 {
			f.Close()
			for n := 8; n > 0; n-- {
				_ = os.Rename(rotated(path, n-1), rotated(path, n))
			}
			if f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.Close()
	close(ended)
	readers.Wait()
	for i := range bufs {
		if got := bufs[i].String(); got != want {
			t.Errorf("reader %d has %d lines of %d", i, strings.Count(got, "\n"), strings.Count(want, "\n"))
		}
	}
}

func TestFollowCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	writeLog(t, path, stampAt(0)+" stdout F x")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	var out safeBuffer
	go func() { done <- Read(ctx, path, Options{Follow: true}, &out, nil) }()
	for out.String() == "" {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

// FuzzParse reads what others may have written into a log.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"2026-01-02T15:04:05.000000000Z stdout F text", "2026-01-02T15:04:05Z stderr P ", "x", "", "2026-01-02T15:04:05Z stdout F", "2026-01-02T15:04:05+01:00 stdout F:P:x a b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(b)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, l.Stamp) || !bytes.HasSuffix(b, l.Text) {
			t.Errorf("%q became %+v", b, l)
		}
		path := filepath.Join(t.TempDir(), "0.log")
		if bytes.ContainsRune(b, '\n') {
			return
		}
		writeLog(t, path, string(b))
		var out bytes.Buffer
		if err := Read(t.Context(), path, Options{}, &out, &out); err != nil {
			t.Fatal(err)
		}
		if want := string(l.Text); strings.TrimSuffix(out.String(), "\n") != strings.TrimSuffix(want, "\n") {
			t.Errorf("%q was read as %q", b, out.String())
		}
	})
}

func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "0.log")
	lines := make([]string, 10000)
	for i := range lines {
		lines[i] = stampAt(i) + " stdout F the quick brown fox jumps over the lazy dog"
	}
	writeLog(b, path, lines...)
	b.ReportAllocs()
	for b.Loop() {
		if err := Read(context.Background(), path, Options{}, discard{}, discard{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(lines)), "ns/line")
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
