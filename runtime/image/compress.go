package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds what a zstd stream may make us remember.
const maxWindow = 32 << 20

type format int

const (
	formatUnknown format = iota
	formatTar
	formatGzip
	formatZstd
	formatJSON
)

// unread are compressions that people use for archives and that are not read here, by how they begin.
var unread = []struct{ begins, name, undo string }{
	{"\xfd7zXZ\x00", "xz", "xz -dk"}, {"BZh", "bzip2", "bzip2 -dk"}, {"\x04\x22\x4d\x18", "lz4", "lz4 -dk"}, {"PK\x03\x04", "zip", "unzip"},
}

const sniffed = 512

// sniff tells what a stream is by its beginning.
func sniff(head []byte) format {
	text := bytes.TrimLeft(head, " \t\r\n")
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return formatGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return formatZstd
	case len(head) >= sniffed && (bytes.Equal(head[257:262], []byte("ustar")) || bytes.Count(head, []byte{0}) == len(head)):
		return formatTar
	case len(text) > 0 && (text[0] == '{' || text[0] == '['):
		return formatJSON
	}
	return formatUnknown
}

// decompress returns the plain stream of r, which is plain, gzip or zstd. close frees what the decoder holds.
func decompress(r *bufio.Reader) (plain io.Reader, close func(), err error) {
	head, err := r.Peek(sniffed)
	if err != nil && len(head) == 0 {
		return nil, nil, err
	}
	switch sniff(head) {
	case formatGzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case formatZstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case formatUnknown: // a tar begins with the name of a file, which may be anything
		for _, u := range unread {
			if bytes.HasPrefix(head, []byte(u.begins)) {
				return nil, nil, fmt.Errorf("it is compressed with %s, which is not read: undo that first (%s), or use gzip or zstd", u.name, u.undo)
			}
		}
	}
	return r, func() {}, nil
}
