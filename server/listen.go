package server

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// listen opens a port of ours. What is said of a failure fits its cause: another port helps only where this one is taken.
func listen(flag, address string) (net.Listener, error) {
	if err := checkHostPort(flag, address); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	host, port, _ := net.SplitHostPort(address)
	var dns *net.DNSError
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("%s %s: %w: choose another port, or stop what uses this one (ss -ltnp)", flag, address, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s: %s is no address of this machine (ip address): use one of its own, or 0.0.0.0 for all: %w", flag, address, host, err)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%s %s: only root may listen on port %s: run as root, or choose a port above 1023: %w", flag, address, port, err)
	case errors.As(err, &dns):
		return nil, fmt.Errorf("%s %s: the name %s leads to no address: use one of this machine's, or 0.0.0.0 for all: %w", flag, address, host, err)
	}
	return nil, fmt.Errorf("%s %s: %w", flag, address, err)
}

func checkHostPort(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s %q: want host:port, such as 0.0.0.0:6443 or [::1]:6443", flag, address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil { // 0 is any free port
		return fmt.Errorf("%s %q: the port %q is no number up to 65535: want host:port, such as 0.0.0.0:6443", flag, address, port)
	}
	return nil
}
