// Command lab starts a cluster on test hosts, runs a command against it and takes everything away again. The command
// finds KUBECONFIG, BRAMBLE_LAB (the lab's folder, with the logs) and BRAMBLE_LAB_NODES in its environment.
//
//	go run ./test/hosts/lab --hosts 3 --images build/images/nginx.tar -- bash
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"bramble.dev/test/etcd"
	"bramble.dev/test/hosts"
)

func main() {
	count := flag.Int("hosts", 3, "how many hosts")
	bin := flag.String("bin", "bin", "folder of the executables")
	images := flag.String("images", "", "image archives for every node, separated by commas")
	keep := flag.Bool("keep", false, "leave the folders and logs behind")
	logs := flag.String("logs", "", "copy the logs to this folder at the end")
	server := flag.String("server-args", "", "more flags of the server, separated by spaces")
	agent := flag.String("agent-args", "", "more flags of each agent, separated by spaces")
	shared := flag.Bool("shared", false, "two servers on three etcd, and mosquitto; the command's kubeconfig leads to both servers by turns")
	disturb := flag.Duration("disturb", 0, "with -shared: kill an etcd, a server and the other one by turns, this often, and start each again")
	pool := flag.Bool("pool", false, "give Services of type LoadBalancer addresses of their own")
	flag.Parse()
	err := run(*count, *keep, *pool, *shared, *disturb, *logs, hosts.ClusterOptions{
		Bin: absolute(*bin), Images: archives(*images), ServerArgs: strings.Fields(*server), AgentArgs: strings.Fields(*agent),
	}, flag.Args())
	// The command's own exit code is passed on in silence; a program that failed while the lab was made is told of.
	if exit, ok := err.(*exec.ExitError); ok {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(count int, keep, pool, shared bool, disturb time.Duration, logs string, o hosts.ClusterOptions, command []string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if shared && count < 2 {
		return errors.New("--shared needs --hosts 2 at least: each server has its own")
	}
	lab, err := hosts.New(hosts.Options{Hosts: count, Keep: keep})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if logs != "" {
		defer func() { err = errors.Join(err, copyLogs(lab.Dir(), logs)) }()
	}
	if pool {
		o.ServerArgs = append(o.ServerArgs, "--load-balancer-pool", lab.Pool(14))
	}
	var quorum *hosts.Quorum
	if shared {
		binary, err := etcd.Binary(ctx)
		if err != nil {
			return err
		}
		if quorum, err = hosts.StartQuorum(lab, binary); err != nil {
			return err
		}
		o.ServerArgs, o.Server = append(o.ServerArgs, quorum.ServerArgs()...), quorum.Broker
	}
	cluster, err := hosts.StartCluster(ctx, lab, o)
	if err != nil {
		return err
	}
	kubeconfig := cluster.Kubeconfig
	if shared {
		second, err := cluster.Join(ctx, 1)
		if err != nil {
			return err
		}
		var balancer net.Listener
		if kubeconfig, balancer, err = cluster.Balance(); err != nil {
			return err
		}
		defer balancer.Close()
		if disturb > 0 {
			defer disturbing(ctx, func(ctx context.Context) error {
				return quorum.Disturb(ctx, cluster, second, disturb, func(s string) { fmt.Println(time.Now().Format(time.TimeOnly), s) })
			})()
		}
	}
	if len(command) == 0 {
		command = []string{"bash"}
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "BRAMBLE_LAB="+lab.Dir(), fmt.Sprintf("BRAMBLE_LAB_NODES=%d", count),
		fmt.Sprintf("BRAMBLE_LAB_SERVER_PID=%d", cluster.Server.Pid()), fmt.Sprintf("BRAMBLE_LAB_AGENT_PID=%d", cluster.Agents[0].Pid()))
	return cmd.Run()
}

// disturbing runs beside the command until what it returns is called.
func disturbing(ctx context.Context, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			fmt.Fprintln(os.Stderr, "lab: disturbing:", err)
		}
	}
}

func copyLogs(lab, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	files, _ := filepath.Glob(filepath.Join(lab, "logs", "*.log"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(f)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// archives are absolute: the agents, which read them, run in folders of their own.
func archives(list string) (out []string) {
	for p := range strings.SplitSeq(list, ",") {
		if p != "" {
			out = append(out, absolute(p))
		}
	}
	return out
}

func absolute(p string) string {
	if a, err := filepath.Abs(p); err == nil {
		return a
	}
	return p
}
