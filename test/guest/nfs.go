package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// linked is a guest on one link with another: each sends its frames to the other's socket, whether that is there or not, so that
// either may be switched off and on.
func (g guest) linked(m machine, dir, me, other, mac string) machine {
	socket := func(name string) string { return filepath.Join(dir, name) }
	m.network = []string{
		"-netdev", "dgram,id=link,local.type=unix,local.path=" + socket(me) + ",remote.type=unix,remote.path=" + socket(other),
		"-device", "virtio-net-pci,netdev=link,mac=" + mac,
	}
	return m
}

// fileServer is the second guest.
type fileServer struct {
	guest
	machine machine
	socket  string
	log     io.Writer

	mu  sync.Mutex
	off func() // nil: it is off
}

// on boots it; what it had on its disk is there. It serves when serving is closed.
func (s *fileServer) on() (serving <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off != nil {
		return nil, errors.New("the server is on")
	}
	// What is left of the life before would be in the way.
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	up := make(chan struct{})
	cut, wait, err := s.boot(s.machine, "bramble.job=server", func(line string) {
		_, _ = io.WriteString(s.log, line+"\n")
		if line == "GUEST-SERVES" {
			close(up)
		}
	})
	if err != nil {
		return nil, err
	}
	s.off = func() { cut(); _ = wait() } // killed: its exit code says nothing
	return up, nil
}

// cut pulls its plug.
func (s *fileServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off != nil {
		s.off()
		s.off = nil
	}
}

// nfs runs the test of volumes on NFS: on one guest the hosts and the cluster, the other is the server, which is switched as the test
// asks.
func (g guest) nfs() error {
	sockets, err := os.MkdirTemp("", "bramble-guest-") // a socket's path is short
	if err != nil {
		return err
	}
	defer os.RemoveAll(sockets)
	logs := map[string]*os.File{}
	for _, name := range []string{"nfs", "server"} {
		if logs[name], err = os.Create(filepath.Join(g.dir, name+".log")); err != nil {
			return err
		}
		defer logs[name].Close()
	}
	server := &fileServer{guest: g, socket: filepath.Join(sockets, "server"), log: logs["server"],
		machine: g.linked(machine{disk: "server.img", memory: "512"}, sockets, "server", "board", "52:54:00:00:00:01")}
	serving, err := server.on()
	if err != nil {
		return err
	}
	defer server.cut()
	passed := false
	var asked sync.WaitGroup
	cut, wait, err := g.boot(g.linked(board, sockets, "board", "server", "52:54:00:00:00:02"), "bramble.job=nfs", func(s string) {
		_, _ = io.WriteString(logs["nfs"], s+"\n")
		passed = passed || s == "GUEST-END 0"
		if what, yes := strings.CutPrefix(s, "GUEST-ASK "); yes {
			fmt.Println("the server is switched", what)
			asked.Go(func() { // the guest's output is read on meanwhile
				if what == "off" {
					server.cut()
				} else if _, err := server.on(); err != nil {
					fmt.Fprintln(os.Stderr, "guest:", err)
				}
			})
			return
		}
		if strings.HasPrefix(strings.TrimSpace(s), "--- ") || strings.HasPrefix(s, "    ") || strings.HasPrefix(s, "guest") {
			fmt.Println(s)
		}
	})
	if err != nil {
		return err
	}
	select {
	case <-serving:
	case <-time.After(5 * time.Minute):
		cut()
		err = errors.New("the server did not come up")
	}
	err = errors.Join(err, wait())
	asked.Wait()
	if !passed {
		return errors.Join(fmt.Errorf("NFS failed in the guests (see %s, and server.log beside it)", logs["nfs"].Name()), err)
	}
	fmt.Println("NFS passed in the guests")
	return nil
}
