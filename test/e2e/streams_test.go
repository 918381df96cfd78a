package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

const (
	slowBits  = 1_000_000              // a second
	slowDelay = 100 * time.Millisecond // each way: 200 ms there and back
)

// A node behind a link of 1 Mbit/s and 200 ms, through mosquitto as an outside broker: while 50 MB move through an
// exec, a changed ConfigMap still arrives within three seconds, and nobody's memory grows.
func TestStreamsLeaveRoomForState(t *testing.T) {
	lab := newLab(t, 1)
	startMosquitto(t, lab)
	brokerAddress := lab.Root.String() + ":1883"
	link, err := hosts.NewSlowLink(lab.Root.String()+":1884", brokerAddress, slowBits, slowDelay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	c := startOn(t, lab, hosts.ClusterOptions{
		Images:     []string{image("busybox")},
		ServerArgs: []string{"--broker", "mqtt://bramble:bramble@" + brokerAddress},
		Server:     "mqtt://bramble:bramble@" + link.Address(),
	})
	c.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-0}\ndata: {mark: first}")
	c.apply(reader(1, "host1"))
	c.ready("app=reader", 1, 2*time.Minute)

	for _, direction := range []struct {
		name string
		argv []string
		in   io.Reader
	}{
		{"from the node", []string{"exec", "reader", "--", "head", "-c", "50000000", "/dev/urandom"}, nil},
		{"to the node", []string{"exec", "-i", "reader", "--", "sh", "-c", "cat >/dev/null"}, io.LimitReader(zeros{}, 50_000_000)},
	} {
		t.Run(direction.name, func(t *testing.T) { c.changeDuringStream(t, direction.argv, direction.in) })
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// changeDuringStream changes a ConfigMap five times while an exec moves data, and watches memory and latency.
func (c *cluster) changeDuringStream(t *testing.T, argv []string, in io.Reader) {
	ctx, stop := context.WithCancel(c.ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, c.Program("kubectl"), argv...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdin = in
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	time.Sleep(5 * time.Second) // the stream fills what it can
	before := c.anonymous(t)

	for i := range 5 {
		want := fmt.Sprintf("%s-%d", strings.ReplaceAll(t.Name(), "/", "."), i)
		began := time.Now()
		c.kubectl("patch", "configmap", "config-0", "--type=merge", "-p", `{"data":{"mark":"`+want+`"}}`)
		c.eventually(30*time.Second, "the change arrives", func() error {
			if got := c.mark(0, "config-0"); got != want {
				return fmt.Errorf("the node has %q", got)
			}
			return nil
		})
		took := time.Since(began)
		t.Logf("the change arrived after %s", took.Round(10*time.Millisecond))
		if took > 3*time.Second {
			t.Errorf("the change took %s, more than 3 s", took)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("the exec ended before its time: %v %s", err, errs.String())
	default:
	}
	for who, kb := range c.anonymous(t) {
		grown := kb - before[who]
		t.Logf("%s grew by %d KiB while the stream ran", who, grown)
		if grown > 4<<10 {
			t.Errorf("%s grew by %d KiB, more than 4 MiB", who, grown)
		}
	}
	stop()
	<-ended
}

// anonymous memory of server and agent, in KiB.
func (c *cluster) anonymous(t *testing.T) map[string]int {
	return map[string]int{"server": anonymousOf(t, c.Server), "agent": anonymousOf(t, c.Agents[0])}
}

// anonymousOf a program: its anonymous memory, in KiB.
func anonymousOf(t *testing.T, p *hosts.Process) (kb int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			fmt.Sscan(v, &kb)
		}
	}
	return kb
}

// startMosquitto runs Debian's broker on the switch's address in the root namespace, with a password and no TLS: it is
// not trusted anyway.
func startMosquitto(t *testing.T, lab *hosts.Lab) {
	t.Helper()
	dir := t.TempDir()
	passwords, config := filepath.Join(dir, "passwords"), filepath.Join(dir, "mosquitto.conf")
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", passwords, "bramble", "bramble").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v %s", err, out)
	}
	text := fmt.Sprintf("listener 1883 %s\npassword_file %s\nallow_anonymous false\nuser root\n", lab.Root, passwords)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mosquitto", "-c", config)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatalf("mosquitto: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto's log:\n%s", tail(log.String(), 10))
		}
	})
}
