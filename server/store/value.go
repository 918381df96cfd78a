package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// On disk a value is one byte that says how it is packed, the packed length, a checksum of the packed bytes, these,
// and padding. Values are compressed because what a write costs the card is pages; they are padded because SQLite
// writes only the pages that differ when a row keeps its size, and frees and allocates some when it does not.
const (
	packedRaw  = 0
	packedZstd = 1

	packedHeader = 9
)

// padded rounds a length up by a few hundredths.
func padded(n int) int {
	step := 32
	for step*128 <= n {
		step *= 2
	}
	return (n + step - 1) / step * step
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Frames carry neither a window of their own nor a checksum: the checksum is ours.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(64<<10), zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true), zstd.WithSingleSegment(true))
		if err != nil {
			panic(err) // the options are wrong
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxValue))
		if err != nil {
			panic(err)
		}
		return d
	})
)

// maxValue bounds what a damaged length can make a reader allocate.
const maxValue = 64 << 20

func pack(v []byte) []byte {
	out := encoder().EncodeAll(v, make([]byte, packedHeader, padded(packedHeader+len(v))))
	out[0] = packedZstd
	if len(out)-packedHeader >= len(v) {
		out = append(out[:packedHeader], v...)
		out[0] = packedRaw
	}
	body := out[packedHeader:]
	binary.LittleEndian.PutUint32(out[1:], uint32(len(body)))
	binary.LittleEndian.PutUint32(out[5:], crc32.Checksum(body, castagnoli))
	return append(out, make([]byte, padded(len(out))-len(out))...)
}

var errDamagedValue = errors.New("the stored value is damaged")

func unpack(b []byte) ([]byte, error) {
	if len(b) < packedHeader {
		return nil, fmt.Errorf("%w: %d bytes", errDamagedValue, len(b))
	}
	body := b[packedHeader:]
	n := binary.LittleEndian.Uint32(b[1:])
	if uint64(n) > uint64(len(body)) {
		return nil, fmt.Errorf("%w: %d of %d bytes", errDamagedValue, len(body), n)
	}
	body = body[:n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[5:]) {
		return nil, fmt.Errorf("%w: wrong checksum", errDamagedValue)
	}
	switch b[0] {
	case packedRaw:
		return body, nil
	case packedZstd:
		v, err := decoder().DecodeAll(body, nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errDamagedValue, err)
		}
		return v, nil
	}
	return nil, fmt.Errorf("%w: packing %d is unknown; it was written by a newer version", errDamagedValue, b[0])
}
