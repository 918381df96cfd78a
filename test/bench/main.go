// Command bench measures the budgets on this machine, and prints one table: the budget, what was
// measured, their ratio, and upstream's figure from a reference cluster in the same run where there is one. "(once)" marks
// those of upstream that no run here measures: they are of Kubernetes 1.37.2 with containerd, on another machine.
//
// It starts a cluster on two test hosts (the second has only an agent), whose data lie on a loop device of their own, so
// that every sector that is written can be counted. scripts/bench prepares what it needs and calls it.
//
//	scripts/bench --idle 600s --only 'idle|creates'
//	scripts/bench api
//	scripts/bench scale --nodes 1000
//	scripts/bench network
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/test/hosts"
)

// options of a run.
type options struct {
	bin, images, reference string
	only                   string
	idle                   time.Duration
	pods                   int

	nodes, scalePods int
	patience         time.Duration
	server, profiles string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder of the executables")
	flag.StringVar(&o.images, "images", "build/images", "folder of the image archives")
	flag.StringVar(&o.reference, "reference", "", "test/upstream/reference; empty: no comparison")
	flag.StringVar(&o.only, "only", "", "the parts to measure, a regular expression; empty: all")
	flag.DurationVar(&o.idle, "idle", 10*time.Minute, "how long to watch an idle cluster")
	flag.IntVar(&o.pods, "pods", 50, "how many pods for the memory of each")
	flag.IntVar(&o.nodes, "nodes", 1000, "scale: how many simulated nodes")
	flag.IntVar(&o.scalePods, "scale-pods", 10_000, "scale: how many pods")
	flag.DurationVar(&o.patience, "patience", 20*time.Minute, "scale: how long all may take")
	flag.StringVar(&o.server, "server", "", "scale, api: another server than that of --bin, as one that is profiled")
	flag.StringVar(&o.profiles, "profiles", "", "scale: where profiles of the simulated nodes can be read, like 127.0.0.1:6061")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	do := run
	switch flag.Arg(0) {
	case "":
	case "api":
		do = api
	case "scale":
		do = scale
	case "network":
		do = network
	case "answer":
		do = answer
	default:
		fmt.Fprintf(os.Stderr, "bench: %q: want api, scale, network, or nothing\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := do(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	dir, release, err := loopDevice()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	lab, err := hosts.New(hosts.Options{Hosts: 2, Dir: filepath.Join(dir.mount, "lab")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	archive, err := filepath.Abs(filepath.Join(o.images, "busybox.tar"))
	if err != nil {
		return err
	}
	c, err := hosts.StartCluster(ctx, lab, hosts.ClusterOptions{Bin: bin, Images: []string{archive}, Copies: true})
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, o: o, c: c, disk: dir, bin: bin}
	return b.all(only)
}

// bench holds one run and the table that it fills.
type bench struct {
	ctx  context.Context
	o    options
	c    *hosts.Cluster
	disk device
	bin  string
	rows []row
}

// row of the table. Ratio is measured/budget; above 1 a budget is missed (or, for "at least", below 1).
type row struct {
	what, budget, measured string
	ratio                  float64
	atLeast                bool
	upstream               string
}

func (b *bench) all(only *regexp.Regexp) error {
	if err := b.sizes(); err != nil {
		return err
	}
	var failed []error
	for _, part := range []struct {
		name string
		do   func() error
	}{
		{"memory of server and agent", b.processes},
		{"ten CustomResourceDefinitions", b.definitions},
		{"pod start", b.podStart},
		{"memory of each pod", b.perPod},
		{"idle cluster", b.idleCluster},
		{"10,000 ConfigMaps", b.manyObjects},
		{"creates", b.creates},
		{"memory after all that", b.afterwards},
	} {
		if !only.MatchString(part.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", part.name)
		if err := part.do(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part.name, err))
			b.rows = append(b.rows, row{what: part.name, measured: "failed: " + firstLine(err.Error())})
		}
	}
	fmt.Print(table(b.rows))
	return errors.Join(failed...) // a table with holes must not pass for one
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}

func table(rows []row) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%-58s %14s %18s %7s %20s\n", "what", "budget", "measured", "ratio", "upstream")
	budgets, missed := 0, 0
	for _, r := range rows {
		ratio, mark := "", ""
		if r.budget != "" {
			budgets++
		}
		if r.ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.ratio)
			if (r.ratio > 1) != r.atLeast && r.ratio != 1 {
				mark = " missed"
				missed++
			}
		}
		fmt.Fprintf(&out, "%-58s %14s %18s %7s %20s%s\n", r.what, r.budget, r.measured, ratio, r.upstream, mark)
	}
	fmt.Fprintf(&out, "%d of %d budgets missed\n", missed, budgets)
	return out.String()
}

// atMost adds a row whose measured value should stay below the budget.
func (b *bench) atMost(what string, budget, measured float64, unit, upstream string) {
	r := row{what: what, measured: number(measured) + " " + unit, upstream: upstream}
	if budget > 0 {
		r.budget, r.ratio = "<= "+number(budget)+" "+unit, measured/budget
	}
	b.rows = append(b.rows, r)
}

// atLeast adds a row whose measured value should exceed the budget.
func (b *bench) atLeast(what string, budget, measured float64, unit, upstream string) {
	r := row{what: what, measured: number(measured) + " " + unit, upstream: upstream, atLeast: true}
	if budget > 0 {
		r.budget = ">= " + number(budget) + " " + unit
		r.ratio = measured / budget
	}
	b.rows = append(b.rows, r)
}

func number(f float64) string {
	switch {
	case f == 0:
		return "0"
	case f < 10:
		return fmt.Sprintf("%.2f", f)
	case f < 100:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

const mib = 1 << 20

// sizes of the executables.
func (b *bench) sizes() error {
	size := func(names ...string) (float64, error) {
		total := int64(0)
		for _, n := range names {
			info, err := os.Stat(filepath.Join(b.bin, n))
			if err != nil {
				return 0, err
			}
			total += info.Size()
		}
		return float64(total) / mib, nil
	}
	agent, err := size("bramble-agent", "bramble-shim", "bramble-pause", "runc")
	if err != nil {
		return err
	}
	server, err := size("bramble")
	if err != nil {
		return err
	}
	b.atMost("size of bramble-agent with its helpers and runc", 32, agent, "MiB", "")
	b.atMost("size of bramble", 112, server, "MiB", "")
	return nil
}

// device is a file system of its own on a loop device.
type device struct{ mount, loop string }

// sectors written to the device so far, 512 bytes each; what waits in the page cache is written first.
func (d device) sectors() (uint64, error) {
	dir, err := os.Open(d.mount)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return 0, fmt.Errorf("sync %s: %w", d.mount, err)
	}
	data, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.loop), "stat"))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(data))
	if len(f) < 7 {
		return 0, fmt.Errorf("statistics of %s: %q", d.loop, data)
	}
	var n uint64
	_, err = fmt.Sscan(f[6], &n)
	return n, err
}

func loopDevice() (device, func() error, error) {
	dir, err := os.MkdirTemp("/var/tmp", "bramble-bench-")
	if err != nil {
		return device{}, nil, err
	}
	image, mount := filepath.Join(dir, "disk"), filepath.Join(dir, "m")
	loop := ""
	release := func() error {
		_ = exec.Command("umount", mount).Run()
		if loop != "" {
			_ = exec.Command("losetup", "-d", loop).Run()
		}
		return os.RemoveAll(dir)
	}
	script := `truncate -s 8G "$1" && mke2fs -q -t ext4 -O ^has_journal "$1" && mkdir "$2" && l=$(losetup -f --show "$1") && mount -o noatime "$l" "$2" && echo "$l"`
	// With a journal, or the times of reading, the file system itself would write from time to time; what is counted
	// here is Bramble. (Raspberry Pi OS mounts with noatime.)
	out, err := exec.Command("sh", "-c", script, "sh", image, mount).Output()
	if err != nil {
		return device{}, nil, errors.Join(fmt.Errorf("loop device: %w", err), release())
	}
	loop = strings.TrimSpace(string(out))
	return device{mount: mount, loop: loop}, release, nil
}
