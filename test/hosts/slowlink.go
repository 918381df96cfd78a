package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// SlowLink is a TCP relay with a rate and a delay in each direction: the stand-in for an LTE link on kernels that
// have no netem. What waits in it is bounded (queueBytes), so a sender feels the rate as it would on a modem.
type SlowLink struct {
	listener net.Listener
	target   string
	rate     int // bytes a second
	delay    time.Duration
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

const (
	chunkBytes = 1400
	queueBytes = 32 << 10 // a modem's buffer: a quarter of a second at 1 Mbit/s
)

// NewSlowLink listens on address and relays to target.
func NewSlowLink(address, target string, bitsPerSecond int, delay time.Duration) (*SlowLink, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("slow link: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &SlowLink{listener: l, target: target, rate: bitsPerSecond / 8, delay: delay, cancel: cancel}
	s.done.Go(func() { s.accept(ctx) })
	return s, nil
}

// Address is where the link's near end listens.
func (s *SlowLink) Address() string { return s.listener.Addr().String() }

// Close cuts every connection and waits until all is over.
func (s *SlowLink) Close() {
	s.cancel()
	_ = s.listener.Close()
	s.done.Wait()
}

func (s *SlowLink) accept(ctx context.Context) {
	for {
		near, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.done.Go(func() {
			if err := s.relay(ctx, near); err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
				fmt.Println("slow link:", err)
			}
		})
	}
}

func (s *SlowLink) relay(ctx context.Context, near net.Conn) error {
	defer near.Close()
	far, err := net.Dial("tcp", s.target)
	if err != nil {
		return err
	}
	defer far.Close()
	for _, c := range []net.Conn{near, far} {
		// Small socket buffers, or they would hide the link's own.
		_ = c.(*net.TCPConn).SetReadBuffer(queueBytes)
		_ = c.(*net.TCPConn).SetWriteBuffer(queueBytes)
	}
	ends := make(chan error, 2)
	go func() { ends <- s.oneWay(ctx, far, near) }()
	go func() { ends <- s.oneWay(ctx, near, far) }()
	select {
	case err = <-ends:
	case <-ctx.Done():
		err = ctx.Err()
	}
	near.Close()
	far.Close()
	return err
}

// packet is bytes that leave the link at a certain time.
type packet struct {
	data []byte
	at   time.Time
}

func (s *SlowLink) oneWay(ctx context.Context, to io.Writer, from io.Reader) error {
	queue := make(chan packet, queueBytes/chunkBytes) // full: the reader waits, and so does the sender
	ended := make(chan error, 1)
	go func() {
		for p := range queue {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.data); err != nil {
				ended <- err
				return
			}
		}
		ended <- io.EOF
	}()
	free := time.Now() // when the line has sent what it was given
	for {
		buf := make([]byte, chunkBytes)
		n, err := from.Read(buf)
		if n > 0 {
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(n) * time.Second / time.Duration(s.rate))
			select {
			case queue <- packet{buf[:n], free.Add(s.delay)}:
			case err := <-ended:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
			// The delay is not part of the queue's bound: pace the reader by the line itself.
			time.Sleep(time.Until(free.Add(-time.Duration(queueBytes) * time.Second / time.Duration(s.rate))))
		}
		if err != nil {
			close(queue)
			<-ended
			return err
		}
	}
}
