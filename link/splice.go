package link

import (
	"io"
	"net"
)

// Splice copies between two connections until both directions have ended, and closes both.
func Splice(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		pour(a, b)
	}()
	pour(b, a)
	<-done
	_ = a.Close()
	_ = b.Close()
}

// pour copies one direction. At its end the other is told; after an error both are closed.
func pour(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		if half.CloseWrite() == nil {
			return
		}
	}
	_ = to.Close()
	_ = from.Close()
}
