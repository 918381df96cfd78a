package link

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// Items are compressed with raw DEFLATE, message by message: a window of 32 KiB is what a small
// board can spare, and a lost message spoils no other.

var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(io.Discard, 6)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

// deflateStrong is what the server uses: it spends memory (1 MiB for the time of the call).
func deflateStrong(b []byte) []byte {
	var out bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&out)
	if _, err := w.Write(b); err != nil {
		return nil
	}
	if err := w.Close(); err != nil {
		return nil
	}
	return out.Bytes()
}

// deflateSmall is what the agent uses: it keeps nothing.
func deflateSmall(b []byte) []byte {
	var out bytes.Buffer
	if err := flate.StatelessDeflate(&out, b, true, nil); err != nil {
		return nil
	}
	return out.Bytes()
}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}

// inflate expands b, which must give exactly size bytes.
func inflate(b []byte, size int) ([]byte, error) {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(b), nil); err != nil {
		return nil, err
	}
	// DEFLATE cannot expand more than 1032 times: an absurd size is refused before memory is taken.
	if size > 1032*len(b)+64 {
		return nil, errMalformed
	}
	out := make([]byte, size)
	if _, err := io.ReadFull(r, out); err != nil {
		return nil, errMalformed
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, errMalformed
	}
	return out, nil
}
