package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is a connection to the nftables of the network namespace that Dial was called in.
type Conn struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte // of the last small transaction
	in  []byte // for answers
}

// Dial opens a connection.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket (does the kernel have CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES?): %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind a netfilter socket: %w", err)
	}
	// The kernel answers before sendmsg returns; a lost answer must not hang the agent.
	tv := unix.NsecToTimeval(int64(20 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up a netfilter socket: %w", err)
	}
	// Without this an error message repeats the whole request.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &Conn{fd: fd}, nil
}

// Close ends the connection.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// Apply does all operations in one transaction, or none and says which one the kernel refused.
func (c *Conn) Apply(ops []Op) error {
	if len(ops) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &transaction{buffer: c.buf[:0], seq: c.seq + 1}
	first := t.seq
	at := t.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, t.seq)
	t.finish(at)
	t.seq++
	for i, o := range ops {
		t.current = i
		o.encode(t)
	}
	// One acknowledgement, of the last message: the kernel sends it after the commit, and sends
	// errors for any message without being asked.
	last := t.starts[len(t.starts)-1]
	flags := binary.NativeEndian.Uint16(t.buffer[last+6:])
	binary.NativeEndian.PutUint16(t.buffer[last+6:], flags|unix.NLM_F_ACK)
	lastSeq := t.seq - 1
	at = t.message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, t.seq)
	t.finish(at)
	c.seq = t.seq
	if cap(t.buffer) <= 64<<10 { // keep a small buffer, not the one of a full load
		c.buf = t.buffer
	}
	if err := c.send(t.buffer); err != nil {
		return fmt.Errorf("send %d nftables operations: %w", len(ops), err)
	}
	return c.acknowledged(t, ops, first, lastSeq)
}

func (c *Conn) send(b []byte) error {
	if len(b) > 100<<10 {
		// The whole transaction must fit into the socket's send buffer.
		if unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b)) != nil {
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 2*len(b))
		}
	}
	for {
		err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// acknowledged reads answers until the last message's, or until there are errors and no more answers.
func (c *Conn) acknowledged(t *transaction, ops []Op, first, last uint32) error {
	var errs []error
	flags := 0
	for {
		err := c.receive(flags, func(h header, data []byte) bool {
			if h.typ != unix.NLMSG_ERROR || h.seq < first || h.seq > t.seq {
				return false
			}
			code := int32(binary.NativeEndian.Uint32(data))
			if code != 0 {
				err := error(unix.Errno(-code))
				if i := int(h.seq-first) - 1; i >= 0 && i < len(t.ops) && len(errs) < 5 {
					err = fmt.Errorf("%s: %w", describe(ops[t.ops[i]]), err)
				}
				errs = append(errs, err)
				flags = unix.MSG_DONTWAIT // the transaction has failed: take what else is there
				return false
			}
			return h.seq == last && len(errs) == 0
		})
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errMore):
			continue
		case errors.Is(err, unix.ENOBUFS):
			// There was more to say than the socket holds: errors, for one acknowledgement fits. All
			// of it must be read, or the next answer finds no room.
			flags = unix.MSG_DONTWAIT
		case errors.Is(err, unix.EAGAIN) && flags != 0:
			if len(errs) == 0 {
				errs = append(errs, unix.ENOBUFS)
			}
			return fmt.Errorf("nftables: %w", errors.Join(errs...))
		default:
			return fmt.Errorf("nftables: wait for the kernel's answer: %w", err)
		}
	}
}

var errMore = errors.New("more messages to come")

type header struct {
	typ uint16
	seq uint32
}

// receive reads one datagram and calls f with each message until it says that all is read.
func (c *Conn) receive(flags int, f func(h header, data []byte) bool) error {
	if c.in == nil {
		c.in = make([]byte, 32<<10) // the kernel's own bound for one datagram of a dump
	}
	n, _, err := unix.Recvfrom(c.fd, c.in, flags)
	if err == unix.EINTR {
		return errMore
	}
	if err != nil {
		return err
	}
	buf := c.in[:n]
	for len(buf) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(buf))
		if size < unix.SizeofNlMsghdr || size > len(buf) {
			return fmt.Errorf("malformed netlink message of %d bytes", size)
		}
		h := header{typ: binary.NativeEndian.Uint16(buf[4:]), seq: binary.NativeEndian.Uint32(buf[8:])}
		if f(h, buf[unix.SizeofNlMsghdr:size]) {
			return nil
		}
		buf = buf[min((size+3)&^3, len(buf)):]
	}
	return errMore
}

func describe(o Op) string {
	switch o := o.(type) {
	case AddElements:
		return fmt.Sprintf("add %d elements to %s (%s)", len(o.Elements), o.Set.Name, first(o.Elements, o.Set))
	case DeleteElements:
		return fmt.Sprintf("delete %d elements from %s (%s)", len(o.Elements), o.Set.Name, first(o.Elements, o.Set))
	case AddRule:
		return fmt.Sprintf("add rule to %s: %s", o.Chain, o.Rule.Text)
	case AddSet:
		return "add set " + o.Set.Name
	}
	return strings.TrimPrefix(fmt.Sprintf("%T%v", o, o), "nft.")
}

func first(es []Element, s Set) string {
	if len(es) == 0 {
		return ""
	}
	return es[0].Format(s)
}
