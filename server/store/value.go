package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
)

// On disk a value is one byte that says how it is packed, a checksum of what follows, and the packed bytes. Values are
// compressed because what a create costs the card is pages.
const (
	packedRaw = 0
	packedS2  = 1

	packedHeader = 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func pack(v []byte) []byte {
	out := make([]byte, packedHeader+s2.MaxEncodedLen(len(v)))
	body := s2.EncodeBetter(out[packedHeader:], v)
	out[0] = packedS2
	if len(body) >= len(v) {
		out[0] = packedRaw
		body = out[packedHeader : packedHeader+copy(out[packedHeader:], v)]
	}
	binary.LittleEndian.PutUint32(out[1:], crc32.Checksum(body, castagnoli))
	return out[:packedHeader+len(body)]
}

var errDamagedValue = errors.New("the stored value is damaged")

func unpack(b []byte) ([]byte, error) {
	if len(b) < packedHeader {
		return nil, fmt.Errorf("%w: %d bytes", errDamagedValue, len(b))
	}
	body := b[packedHeader:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[1:]) {
		return nil, fmt.Errorf("%w: wrong checksum", errDamagedValue)
	}
	switch b[0] {
	case packedRaw:
		return body, nil
	case packedS2:
		v, err := s2.Decode(nil, body)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errDamagedValue, err)
		}
		return v, nil
	}
	return nil, fmt.Errorf("%w: packing %d is unknown; it was written by a newer version", errDamagedValue, b[0])
}
