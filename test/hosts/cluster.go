package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The ports that a cluster's server listens on, in its own network namespace.
const (
	APIPort  = "6443"
	MQTTPort = "8883"
)

// ClusterOptions say how a cluster is started on a lab.
type ClusterOptions struct {
	Bin        string   // folder of the executables
	Images     []string // archives that every node gets
	ServerArgs []string // more flags of the server
	AgentArgs  []string // more flags of every agent
	Server     string   // the MQTT URL that agents use; default: straight to host 1
	Agents     int      // how many hosts run an agent; default all
	// Copies gives each host but the first its own files of the executables, as boards have: a page of one file is
	// counted for every process that maps it, and stays while any of them needs it.
	Copies bool
}

// Cluster is Bramble on a lab: the server on host 1, an agent on every host.
type Cluster struct {
	*Lab
	Kubeconfig string
	Server     *Process
	Agents     []*Process

	o ClusterOptions
}

// StartCluster starts the server and the agents, and waits until every node is Ready.
func StartCluster(ctx context.Context, lab *Lab, o ClusterOptions) (*Cluster, error) {
	if o.Agents == 0 {
		o.Agents = len(lab.Hosts)
	}
	c := &Cluster{Lab: lab, o: o, Kubeconfig: filepath.Join(lab.dir, "kubeconfig"), Agents: make([]*Process, o.Agents)}
	if err := c.StartServer(ctx); err != nil {
		return nil, err
	}
	token, err := c.Token(ctx)
	if err != nil {
		return nil, err
	}
	for i := range c.Agents {
		if o.Copies && i > 0 {
			if err := c.copyPrograms(i); err != nil {
				return nil, err
			}
		}
		if err := c.StartAgent(i, "--token", token); err != nil {
			return nil, err
		}
	}
	if err := c.nodesReady(ctx); err != nil {
		return nil, err
	}
	return c, c.ImportImages(ctx, o.Images...)
}

// StartServer starts the server, or starts it again, and waits until it answers.
func (c *Cluster) StartServer(ctx context.Context) error {
	h := c.Hosts[0]
	args := append([]string{c.program("bramble"), "server", "--data-dir", DataDir,
		"--api-listen", h.IP.String() + ":" + APIPort, "--mqtt-listen", h.IP.String() + ":" + MQTTPort}, c.o.ServerArgs...)
	p, err := h.Start("server", args...)
	if err != nil {
		return err
	}
	c.Server = p
	return c.waitAPI(ctx)
}

// RestartServer stops the server and starts it with other flags.
func (c *Cluster) RestartServer(ctx context.Context, args ...string) error {
	if err := c.Server.Stop(30 * time.Second); err != nil {
		return err
	}
	c.o.ServerArgs = args
	return c.StartServer(ctx)
}

func (c *Cluster) waitAPI(ctx context.Context) error {
	err := Eventually(ctx, time.Minute, func() error {
		if c.Server.Ended() {
			return Stop(errors.New("the server ended"))
		}
		if err := c.writeKubeconfig(); err != nil {
			return err
		}
		_, err := c.Kubectl(ctx, "get", "--raw", "/readyz")
		return err
	})
	if err != nil {
		return fmt.Errorf("the API does not answer: %w\n%s", err, c.Server.Tail(20))
	}
	return nil
}

// writeKubeconfig is the admin's, with the address at which the root namespace reaches the server.
func (c *Cluster) writeKubeconfig() error {
	data, err := os.ReadFile(c.Hosts[0].Data("kubeconfig"))
	if err != nil {
		return err
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		if key, _, ok := strings.Cut(line, "server:"); ok && strings.TrimSpace(key) == "" {
			lines[i] = key + "server: " + c.URL()
		}
	}
	return os.WriteFile(c.Kubeconfig, []byte(strings.Join(lines, "\n")), 0o600)
}

// URL of the API, as hosts and the root namespace reach it.
func (c *Cluster) URL() string { return "https://" + c.Hosts[0].IP.String() + ":" + APIPort }

// Token asks the server for a join token.
func (c *Cluster) Token(ctx context.Context, args ...string) (string, error) {
	out, err := c.Hosts[0].Run(ctx, append([]string{c.program("bramble"), "token", "create", "--data-dir", DataDir}, args...)...)
	return strings.TrimSpace(out), err
}

// StartAgent starts the agent of the i-th host, or starts it again; the token is needed the first time only.
func (c *Cluster) StartAgent(i int, args ...string) error {
	h := c.Hosts[i]
	url := c.o.Server
	if url == "" {
		url = "mqtts://" + c.Hosts[0].IP.String() + ":" + MQTTPort
	}
	argv := append([]string{filepath.Join(c.bin(i), "bramble-agent"), "--data-dir", DataDir, "--node-name", h.Name, "--server", url}, c.o.AgentArgs...)
	p, err := h.Start("agent", append(argv, args...)...)
	if err != nil {
		return err
	}
	c.Agents[i] = p
	return nil
}

func (c *Cluster) nodesReady(ctx context.Context) error {
	err := Eventually(ctx, 90*time.Second, func() error {
		for i, a := range c.Agents {
			if a.Ended() {
				return Stop(fmt.Errorf("the agent of host %d ended: %s", i+1, a.Tail(15)))
			}
		}
		out, err := c.Kubectl(ctx, "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		if err != nil {
			return err
		}
		if n := strings.Count(out, "True"); n != len(c.Agents) {
			return fmt.Errorf("%d of %d nodes are Ready", n, len(c.Agents))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.Agents[0].Tail(15))
	}
	return nil
}

// ImportImages gives the archives to every node.
func (c *Cluster) ImportImages(ctx context.Context, archives ...string) error {
	for _, archive := range archives {
		for i := range c.Agents {
			if _, err := c.Hosts[i].Run(ctx, c.program("bramble"), "image", "import", "--data-dir", DataDir, archive); err != nil {
				return err
			}
		}
	}
	return nil
}

// Kubectl runs the built kubectl against the cluster and returns its standard output.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlWith(ctx, c.program("kubectl"), "", args...)
}

// Apply applies a manifest that is given as text.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	_, err := c.KubectlWith(ctx, c.program("kubectl"), manifest, "apply", "-f", "-")
	return err
}

// KubectlWith runs a kubectl with something on its standard input.
func (c *Cluster) KubectlWith(ctx context.Context, program, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HOME="+c.dir)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// bin is the folder of the i-th host's executables.
func (c *Cluster) bin(i int) string {
	if c.o.Copies && i > 0 {
		return filepath.Join(c.dir, "bin-"+c.Hosts[i].Name)
	}
	return c.o.Bin
}

func (c *Cluster) copyPrograms(i int) error {
	if err := os.MkdirAll(c.bin(i), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"bramble-agent", "bramble-shim", "bramble-pause", "runc"} {
		data, err := os.ReadFile(c.program(name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.bin(i), name), data, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// Programs are the files of an executable on all hosts.
func (c *Cluster) Programs(name string) []string {
	paths := []string{c.program(name)}
	for i := range c.Agents {
		if path := filepath.Join(c.bin(i), name); path != paths[0] {
			paths = append(paths, path)
		}
	}
	return paths
}

// Program is the path of one of the executables.
func (c *Cluster) Program(name string) string { return c.program(name) }

func (c *Cluster) program(name string) string { return filepath.Join(c.o.Bin, name) }

// stop is an error that no waiting mends.
type stop struct{ error }

func (s stop) Unwrap() error { return s.error }

// Stop marks an error for Eventually as final.
func Stop(err error) error { return stop{err} }

// slower says how many times slower than usual this machine is (an emulated one, say): BRAMBLE_PATIENCE.
var slower = func() time.Duration {
	if n, err := strconv.Atoi(os.Getenv("BRAMBLE_PATIENCE")); err == nil && n > 0 {
		return time.Duration(n)
	}
	return 1
}()

// Eventually tries until do succeeds; the error is the last that it gave.
func Eventually(ctx context.Context, patience time.Duration, do func() error) error {
	patience *= slower
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := do()
		var final stop
		if err == nil || errors.As(err, &final) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", patience, err)
		case <-time.After(150 * time.Millisecond):
		}
	}
}
