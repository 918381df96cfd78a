// Command guest runs jobs in a QEMU guest that scripts/test --guest prepared (kernel, initramfs, disk): the main job's
// test on Debian's kernel with cgroup v2, and power cuts: the guest is killed under 16 writers, many times, and after
// each boot every write that it had acknowledged must be there, and no revision may come twice; and volumes on a second guest that
// is an NFS server.
//
//	go run ./test/guest --dir /var/tmp/bramble-cache/guest --job writers --cuts 20
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	dir := flag.String("dir", "", "folder with vmlinuz, initramfs and disk.img")
	job := flag.String("job", "main", "main, writers or nfs")
	cuts := flag.Int("cuts", 20, "how often the power is cut (writers)")
	flag.Parse()
	g := guest{dir: *dir}
	err := errors.New("unknown job " + *job)
	switch *job {
	case "main":
		err = g.mainJob()
	case "writers":
		err = g.powerCuts(*cuts)
	case "nfs":
		err = g.nfs()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

type guest struct{ dir string }

// board is the guest that most jobs need alone: a board with Bramble.
var board = machine{disk: "disk.img", memory: "4096"}

// machine is what a guest is made of.
type machine struct {
	disk, memory string
	network      []string // arguments of QEMU
}

// boot starts a guest with more words on its kernel's command line; lines gets what it says on its serial line.
// cut ends it as a plug that is pulled does.
func (g guest) boot(m machine, words string, line func(string)) (cut func(), wait func() error, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Minute)
	args := append([]string{"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", m.memory, "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", filepath.Join(g.dir, "vmlinuz"), "-initrd", filepath.Join(g.dir, "initramfs"),
		// writethrough: what the guest has flushed is in the host's file whenever QEMU is killed.
		"-drive", "if=virtio,format=raw,cache=writethrough,file=" + filepath.Join(g.dir, m.disk),
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off " + words}, m.network...)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("start the guest: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewReader(out)
		for {
			s, err := in.ReadString('\n')
			if err != nil { // a line that was cut off says nothing for sure
				return
			}
			line(strings.TrimRight(s, "\r\n"))
		}
	}()
	wait = func() error {
		<-done
		err := cmd.Wait()
		cancel()
		return err
	}
	return func() { _ = cmd.Process.Kill() }, wait, nil
}

// mainJob runs the main job's test in the guest and shows what it says.
func (g guest) mainJob() error {
	log, err := os.Create(filepath.Join(g.dir, "main.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	passed := false
	_, wait, err := g.boot(board, "bramble.job=main", func(s string) {
		_, _ = io.WriteString(log, s+"\n")
		if strings.HasPrefix(strings.TrimSpace(s), "--- ") || strings.HasPrefix(s, "    ") || strings.HasPrefix(s, "guest") {
			fmt.Println(s)
		}
		passed = passed || s == "GUEST-END 0"
	})
	if err != nil {
		return err
	}
	err = wait()
	if !passed {
		return fmt.Errorf("the main job failed in the guest (see %s): %w", log.Name(), err)
	}
	fmt.Println("the main job passed in the guest")
	return nil
}

// ledger is what the guest acknowledged over all its lives.
type ledger struct {
	acked     map[string]string // name -> revision
	revisions map[string]string // revision -> name
	have      map[string]string // of this boot
	faults    []string
	started   chan struct{} // closed when the guest has said what it has
	writing   chan struct{} // closed with the first write that this life acknowledges
}

func (l *ledger) line(s string) {
	f := strings.Fields(s)
	switch {
	case len(f) == 3 && f[0] == "HAVE":
		l.have[f[1]] = f[2]
	case len(f) == 1 && f[0] == "START":
		for name, revision := range l.acked {
			if l.have[name] != revision {
				l.faults = append(l.faults, fmt.Sprintf("%s was acknowledged at %s, now %q", name, revision, l.have[name]))
			}
		}
		close(l.started)
	case len(f) == 3 && f[0] == "ACK":
		if other, twice := l.revisions[f[2]]; twice {
			l.faults = append(l.faults, fmt.Sprintf("revision %s was given to %s and to %s", f[2], other, f[1]))
		}
		l.acked[f[1]], l.revisions[f[2]] = f[2], f[1]
		select {
		case <-l.writing:
		default:
			close(l.writing)
		}
	case len(f) > 0 && f[0] == "ERROR":
		l.faults = append(l.faults, s)
	}
}

func (g guest) powerCuts(cuts int) error {
	l := &ledger{acked: map[string]string{}, revisions: map[string]string{}}
	for boot := range cuts + 1 {
		verify := boot == cuts
		before := len(l.acked)
		if err := g.life(l, boot, verify); err != nil {
			return err
		}
		if len(l.faults) > 0 {
			return fmt.Errorf("after %d power cuts: %s", boot, strings.Join(l.faults[:min(5, len(l.faults))], "; "))
		}
		if !verify {
			fmt.Printf("power cut %d: %d writes acknowledged in this life, %d in all\n", boot+1, len(l.acked)-before, len(l.acked))
		}
	}
	fmt.Printf("%d power cuts under 16 writers: %d writes acknowledged, 0 lost, no revision twice\n", cuts, len(l.acked))
	return nil
}

// life boots the guest, checks what it has, and cuts the power some time after it began to write.
func (g guest) life(l *ledger, boot int, verify bool) error {
	l.have, l.started, l.writing = map[string]string{}, make(chan struct{}), make(chan struct{})
	log, err := os.Create(filepath.Join(g.dir, fmt.Sprintf("writers-%02d.log", boot)))
	if err != nil {
		return err
	}
	defer log.Close()
	cut, wait, err := g.boot(board, fmt.Sprintf("bramble.job=writers bramble.boot=%d bramble.verify=%t", boot, verify), func(s string) {
		_, _ = io.WriteString(log, s+"\n")
		l.line(s)
	})
	if err != nil {
		return err
	}
	up := l.writing
	if verify {
		up = l.started
	}
	select {
	case <-up:
	case <-time.After(5 * time.Minute):
		cut()
		_ = wait()
		return fmt.Errorf("the guest did not come up (see %s)", log.Name())
	}
	if verify {
		_ = wait()
		return nil
	}
	time.Sleep(time.Duration(rand.IntN(5000)) * time.Millisecond)
	cut()
	_ = wait() // killed: its exit code says nothing
	return nil
}
