package api

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestEndApart(t *testing.T) {
	a := &apart{ReadCloser: io.NopCloser(iotest.DataErrReader(strings.NewReader("container is alive\n")))}
	buf := make([]byte, 2048)
	n, err := a.Read(buf)
	if string(buf[:n]) != "container is alive\n" || err != nil {
		t.Errorf("first %q, %v", buf[:n], err)
	}
	if n, err := a.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("then %d bytes, %v", n, err)
	}
}
