package shim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
)

// Version is the protocol's version that this package speaks. A shim answers in its own version; both skip the
// fields that they do not know, and a request that a shim does not know is answered with an error.
const Version = 1

type kind byte

const (
	msgRun kind = 1 + iota
	msgSignal
	msgWatch
	msgAttach
	msgForget
	msgShutdown
	msgResize
	msgStdin
	msgStdinClose
	msgFence
)

const (
	msgOK kind = 64 + iota
	msgFailed
	msgStarted
	msgExited
	msgTask
	msgReady
	msgStdout
	msgStderr
	msgPauseExited
)

// maxMessage bounds what is accepted from a shim.
const maxMessage = 1 << 20

// fields is the payload of a message: "key=value" strings, each ended by NUL.
type fields []byte

func (f *fields) add(key, value string) {
	*f = append(*f, key...)
	*f = append(*f, '=')
	*f = append(*f, value...)
	*f = append(*f, 0)
}

func (f *fields) addInt(key string, v int64) { f.add(key, strconv.FormatInt(v, 10)) }

func (f fields) get(key string) (string, bool) {
	for len(f) > 0 {
		field, rest, _ := bytes.Cut(f, []byte{0})
		if k, v, ok := bytes.Cut(field, []byte{'='}); ok && string(k) == key {
			return string(v), true
		}
		f = rest
	}
	return "", false
}

func (f fields) int(key string) int64 {
	v, _ := f.get(key)
	n, _ := strconv.ParseInt(v, 10, 64)
	return n
}

func frame(k kind, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	b[0], b[1] = Version, byte(k)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(payload)))
	return append(b, payload...)
}

func readFrame(r io.Reader) (kind, fields, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[4:])
	if head[0] == 0 || n > maxMessage {
		return 0, nil, fmt.Errorf("message of version %d and %d bytes is not a shim's", head[0], n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	return kind(head[1]), payload, nil
}
