package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"bramble.dev/runtime/snapshot"
)

const (
	parallel = 3 // layers of an image that are downloaded at a time
	attempts = 6 // downloads that bring no byte, one after the other, before a pull gives up
)

// backoff is how long a download that was cut waits before its next attempt.
var backoff = func(failures int) time.Duration { return min(time.Second<<failures, 30*time.Second) }

// layer brings one layer: it goes on where an earlier download, perhaps of an earlier process, was cut off, checks the
// digest, and unpacks.
func (s *Store) layer(ctx context.Context, src *source, d descriptor, diffID string, progress func(int64)) (*snapshot.Staged, error) {
	file := filepath.Join(s.downloads(), hexOf(d.Digest)+".part")
	for again := true; ; again = false {
		var st *snapshot.Staged
		err := s.download(ctx, src, d, file, progress)
		if err == nil {
			if st, err = s.unpackFile(ctx, file, diffID); err == nil || ctx.Err() == nil {
				_ = os.Remove(file) // unpacked, or of no use
			}
		}
		var wrong *digestError
		if again && errors.As(err, &wrong) {
			continue // a resumed file may have been damaged by a crash: once more, from the start
		}
		return st, err
	}
}

type digestError struct{ what, want, got string }

func (e *digestError) Error() string {
	return fmt.Sprintf("%s has digest %s, not %s", e.what, e.got, e.want)
}

// download completes a file with a blob. For want of room it fails at once: trying again would keep the disk full, on which
// the node's databases lie too.
func (s *Store) download(ctx context.Context, src *source, d descriptor, file string, progress func(int64)) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("download layer: %w", err)
	}
	defer f.Close()
	for failures := 0; ; {
		had, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("download layer: %w", err)
		}
		if err := snapshot.Room(int(f.Fd()), d.Size-had); err != nil { // what is there already stays: room may be made
			return fmt.Errorf("download layer %s: %w", d.Digest, err)
		}
		if had < d.Size || d.Size == 0 {
			err = src.fetch(ctx, d, f, had, progress)
		}
		if errors.Is(err, unix.ENOSPC) { // something else grew meanwhile
			return errors.Join(fmt.Errorf("download layer %s: %w", d.Digest, err), os.Remove(file))
		}
		has, _ := f.Seek(0, io.SeekEnd)
		if err == nil && (has >= d.Size || d.Size == 0) {
			return verify(f, d, file)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if has > had {
			failures = 0
		}
		if failures++; failures > attempts || permanent(err) || errors.Is(err, os.ErrInvalid) {
			return fmt.Errorf("download layer %s: %w", d.Digest, err)
		}
		s.log.Info("a layer's download was cut; it goes on where it stopped", "layer", d.Digest, "have", has, "of", d.Size, "err", err)
		select {
		case <-time.After(backoff(failures)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func verify(f *os.File, d descriptor, file string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != d.Digest {
		_ = os.Remove(file) // and the next attempt begins anew
		return &digestError{"a layer as it was downloaded", d.Digest, got}
	}
	return nil
}

// fetch appends what is missing of a blob.
func (src *source) fetch(ctx context.Context, d descriptor, f *os.File, from int64, progress func(int64)) error {
	req, err := src.request(ctx, http.MethodGet, "blobs", d.Digest)
	if err != nil {
		return err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := src.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return errors.Join(err, f.Truncate(0))
		}
		return err
	}
	if resp.StatusCode == http.StatusOK && from > 0 { // it does not know ranges
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	body := io.Reader(resp.Body)
	if d.Size > 0 {
		at, _ := f.Seek(0, io.SeekCurrent)
		body = io.LimitReader(body, d.Size-at) // a registry must not fill the disk
	}
	n, err := io.Copy(f, &stalled{r: body, progress: progress, cancel: resp.Body.Close})
	if err == nil && n == 0 && from < d.Size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// stalled gives up a connection on which nothing has come for a while: a link that went away says nothing.
type stalled struct {
	r        io.Reader
	progress func(int64)
	cancel   func() error
}

const stallTime = 60 * time.Second

func (s *stalled) Read(p []byte) (int, error) {
	t := time.AfterFunc(stallTime, func() { _ = s.cancel() })
	n, err := s.r.Read(p)
	t.Stop()
	if n > 0 && s.progress != nil {
		s.progress(int64(n))
	}
	return n, err
}

func (s *Store) unpackFile(ctx context.Context, file, diffID string) (*snapshot.Staged, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, done, err := decompress(bufio.NewReaderSize(f, 64<<10))
	if err != nil {
		return nil, err
	}
	defer done()
	st, err := s.snap.Unpack(ctx, plain)
	if err != nil {
		return nil, err
	}
	if st.DiffID != diffID {
		st.Discard()
		return nil, &digestError{"a layer's content", diffID, st.DiffID}
	}
	return st, nil
}
