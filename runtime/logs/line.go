package logs

import (
	"bytes"
	"errors"
	"time"
)

// Line is one line of a log file.
type Line struct {
	Time    time.Time
	Stamp   []byte // Time as it is written
	Stderr  bool
	Partial bool   // the next line of the stream goes on with it
	Text    []byte // without the newline
}

var errLine = errors.New("not a line of a log in the CRI's format")

// Parse reads a line, given without its newline. The result points into b.
func Parse(b []byte) (Line, error) {
	var l Line
	stamp, rest, ok := bytes.Cut(b, []byte{' '})
	if !ok {
		return l, errLine
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return l, errLine
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || (string(stream) != "stdout" && string(stream) != "stderr") {
		return l, errLine
	}
	tags, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return l, errLine
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'}) // later tags are reserved
	if string(tag) != "F" && string(tag) != "P" {
		return l, errLine
	}
	return Line{Time: t, Stamp: stamp, Stderr: stream[3] == 'e', Partial: tag[0] == 'P', Text: text}, nil
}
