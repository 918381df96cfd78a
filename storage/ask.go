package storage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"
)

// askDeadline is how long a file server may take to answer the question whether it is there, and a name server to name it.
const askDeadline = 5 * time.Second

// Numbers of ONC RPC (RFC 5531) and of NFS.
const (
	rpcCall, rpcReply     = 0, 1
	rpcVersion            = 2
	nfsProgram            = 100003
	nfsVersion            = 4
	nfsPort               = "2049"
	accepted              = 0
	success, otherVersion = 0, 2
	lastFragment          = 1 << 31
	longestReply          = 1024 // it has 24 bytes
)

// errAway is said of a server that does not answer, or not in time. What was asked of the kernel goes on.
var errAway = errors.New("the file server does not answer")

// awayError says how a server does not answer, and what to look at.
type awayError struct {
	server, host, port string
	refused            bool
}

func (e *awayError) Error() string {
	name := e.server
	if e.host != "" && e.host != e.server {
		name += " (" + e.host + ")"
	}
	if e.refused {
		return fmt.Sprintf("nfs server %s refuses connections on port %s: see whether the NFS service runs there", name, e.port)
	}
	return fmt.Sprintf("nfs server %s does not answer on port %s: see whether it is on, and reachable from this node", name, e.port)
}

func (e *awayError) Is(target error) bool { return target == errAway }

// ask calls the procedure of an NFS server that does nothing: an answer says that it serves version 4. The kernel must not be the
// first to ask: while it waits for a server that is away it mounts from no other.
func ask(ctx context.Context, server, host, port string) error {
	ctx, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return &awayError{server, host, port, errors.Is(err, syscall.ECONNREFUSED)}
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	id := rand.Uint32()
	if _, err := conn.Write(nullCall(id)); err != nil {
		return &awayError{server, host, port, false}
	}
	reply, err := readReply(conn)
	if err != nil {
		return &awayError{server, host, port, false}
	}
	if err := understand(reply, id); err != nil {
		return fmt.Errorf("nfs server %s: %w", server, err)
	}
	return nil
}

func nullCall(id uint32) []byte {
	words := []uint32{id, rpcCall, rpcVersion, nfsProgram, nfsVersion, 0, 0, 0, 0, 0} // procedure 0, no credentials, no verifier
	b := binary.BigEndian.AppendUint32(nil, lastFragment|uint32(4*len(words)))
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

func readReply(r io.Reader) ([]byte, error) {
	var mark [4]byte
	if _, err := io.ReadFull(r, mark[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(mark[:]) &^ lastFragment
	if n > longestReply {
		return nil, fmt.Errorf("a reply of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

var errReply = errors.New("what answers there is no NFS server")

// understand reads the reply to nullCall.
func understand(b []byte, id uint32) error {
	word := func(i int) uint32 {
		if len(b) < 4*i+4 {
			return ^uint32(0)
		}
		return binary.BigEndian.Uint32(b[4*i:])
	}
	if word(0) != id || word(1) != rpcReply || word(2) != accepted {
		return errReply
	}
	verifier := word(4) // its length
	if verifier > longestReply {
		return errReply
	}
	at := 5 + int(verifier+3)/4
	switch word(at) {
	case success:
		return nil
	case otherVersion:
		if newest := word(at + 2); newest < nfsVersion {
			return fmt.Errorf("it speaks NFS version %d at most, and 4 is needed", newest)
		}
	}
	return errReply
}

// resolve finds the addresses of a server. The kernel knows addresses alone.
func resolve(ctx context.Context, server string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, server)
	var dns *net.DNSError
	switch {
	case err == nil:
		return addresses, nil
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, fmt.Errorf("nfs server %s: this node knows no host of that name: correct it, or use the address", server)
	case errors.As(err, &dns): // its text names another port each time, which would be another event
		return nil, fmt.Errorf("nfs server %s: the name servers of this node do not answer: see its /etc/resolv.conf, or use the server's address", server)
	}
	return nil, fmt.Errorf("nfs server %s: %w", server, err)
}

// findServer gives the address of a server that answers.
func findServer(ctx context.Context, server, port string) (string, error) {
	addresses, err := resolve(ctx, strings.Trim(server, "[]"))
	if err != nil {
		return "", err
	}
	var first error
	for _, a := range addresses {
		err := ask(ctx, server, a, port)
		if err == nil {
			return a, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", first
}
