package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/mesh/dns"
)

const (
	manyNames = 5000
	askers    = 16 // one question each at a time
	askTime   = 250 * time.Millisecond
	askRounds = 20
)

func nameOf(i int) string    { return fmt.Sprintf("s%04d.default.svc.cluster.local", i) }
func addressOf(i int) string { return fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250) }

// answer is the name server of a node with many Services, in a process of its own: it prints its address and answers until
// it is ended.
func answer(ctx context.Context, _ options) error {
	var services []*corev1.Service
	for i := range manyNames {
		services = append(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%04d", i)},
			Spec: corev1.ServiceSpec{ClusterIP: addressOf(i), ClusterIPs: []string{addressOf(i)}, Ports: []corev1.ServicePort{{Port: 80}}}})
	}
	s := dns.Open(dns.Options{})
	defer s.Close()
	if err := s.Set(ctx, dns.Config{Domain: "cluster.local", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Services: services}); err != nil {
		return err
	}
	fmt.Println(s.Addr())
	<-ctx.Done()
	return nil
}

// names: questions for names of Services, answered by the node's name server and by Debian's dnsmasq in turn.
func (b *bench) names() error {
	ours, stop, err := b.answering()
	if err != nil {
		return fmt.Errorf("our name server: %w", err)
	}
	defer stop()
	theirs, stopTheirs, err := b.dnsmasq()
	if err != nil {
		return fmt.Errorf("dnsmasq: %w", err)
	}
	defer stopTheirs()
	var rates, otherRates []float64
	var waits, otherWaits []time.Duration
	for range askRounds {
		r, w, err := ask(ours)
		if err != nil {
			return err
		}
		or, ow, err := ask(theirs)
		if err != nil {
			return err
		}
		rates, otherRates = append(rates, r), append(otherRates, or)
		waits, otherWaits = append(waits, w...), append(otherWaits, ow...)
	}
	p99 := func(w []time.Duration) float64 {
		slices.Sort(w)
		return float64(w[len(w)*99/100].Microseconds()) / 1000
	}
	us, them, ourP99, theirP99 := median(rates), median(otherRates), p99(waits), p99(otherWaits)
	b.atLeast(fmt.Sprintf("questions for one of %d names, %d at a time", manyNames, askers), 0, us, "/s", "")
	b.atLeast("the same, dnsmasq", 0, them, "/s", "")
	b.atLeast("in times of dnsmasq", 0, us/them, "x", "")
	b.atMost("p99 of the answers", 0, ourP99, "ms", "")
	b.atMost("the same, dnsmasq", 0, theirP99, "ms", "")
	return nil
}

func (b *bench) answering() (address string, stop func(), err error) {
	exe, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(b.ctx, exe, "answer")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, err
	}
	return strings.TrimSpace(line), stop, nil
}

func (b *bench) dnsmasq() (address string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "bramble-bench-")
	if err != nil {
		return "", nil, err
	}
	var hosts strings.Builder
	for i := range manyNames {
		fmt.Fprintf(&hosts, "%s %s\n", addressOf(i), nameOf(i))
	}
	file := filepath.Join(dir, "hosts")
	if err := os.WriteFile(file, []byte(hosts.String()), 0o644); err != nil {
		return "", nil, err
	}
	if address, err = freePort(); err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.CommandContext(b.ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port, "--addn-hosts="+file, "--cache-size=10000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.RemoveAll(dir) }
	for range 100 { // until it answers
		if _, _, err = ask(address); err == nil {
			return address, stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return "", nil, err
}

// ask asks for a while: answers a second, and how long each took.
func ask(address string) (perSecond float64, took []time.Duration, err error) {
	var mu sync.Mutex
	var failed []error
	var wg sync.WaitGroup
	began := time.Now()
	for a := range askers {
		wg.Go(func() {
			mine, err := askOne(address, a, began.Add(askTime))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			failed = append(failed, err)
		})
	}
	wg.Wait()
	return float64(len(took)) / time.Since(began).Seconds(), took, errors.Join(failed...)
}

func askOne(address string, seed int, end time.Time) (took []time.Duration, err error) {
	conn, err := net.Dial("udp4", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	answer := make([]byte, 512)
	for i := seed; time.Now().Before(end); i += askers {
		q := new(mdns.Msg).SetQuestion(nameOf(i%manyNames)+".", mdns.TypeA)
		question, err := q.Pack()
		if err != nil {
			return nil, err
		}
		asked := time.Now()
		if _, err := conn.Write(question); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(asked.Add(2 * time.Second)); err != nil {
			return nil, err
		}
		n, err := conn.Read(answer)
		if err != nil {
			return nil, err
		}
		took = append(took, time.Since(asked))
		if n < 12 || answer[3]&0xf != 0 || answer[7] != 1 {
			return nil, fmt.Errorf("%s does not know %s: %x", address, nameOf(i%manyNames), answer[:n])
		}
	}
	return took, nil
}
