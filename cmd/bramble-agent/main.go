// Command bramble-agent is the node of a board: flags and wiring, nothing else.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"bramble.dev/agent"
	"bramble.dev/agent/shortage"
	"bramble.dev/cmd/footprint"
	"bramble.dev/cmd/settings"
	"bramble.dev/cmd/version"
	"bramble.dev/link"
	"bramble.dev/link/carrier"
	"bramble.dev/mesh/ingress"
)

func main() {
	footprint.Thrifty()
	if len(os.Args) == 2 && os.Args[1] == ingress.Command {
		os.Exit(ingress.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

// flags as they are written; config makes of them what the agent is started with.
type flags struct {
	token, tokenFile, brokerCA, level string
	labels, reserved                  map[string]string
	taints, mirrors                   []string
	teardown                          bool
	c                                 agent.Config
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use: "bramble-agent", Short: "Run the node of this board", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: version.Version,
	}
	fl := cmd.Flags()
	fl.StringVar(&f.c.DataDir, "data-dir", "/var/lib/bramble", "folder that holds everything of this instance")
	fl.StringVar(&f.c.NodeName, "node-name", "", "name of this board's node (default: its host name)")
	fl.StringSliceVar(&f.c.Servers, "server", nil, "URL of the server's MQTT broker (mqtts://host:8883); several are tried in turn")
	fl.StringVar(&f.token, "token", "", "token that bramble token create printed, needed the first time only")
	fl.StringVar(&f.tokenFile, "token-file", "", "file with that token")
	fl.StringVar(&f.brokerCA, "broker-ca", "", "PEM file with the authority of an outside broker's certificate")
	fl.StringVar(&f.c.NodeIP, "node-ip", "", "address under which other nodes reach this one (default: the one towards the server)")
	fl.StringToStringVar(&f.labels, "node-label", nil, "labels that the node registers with (key=value)")
	fl.StringSliceVar(&f.taints, "node-taint", nil, "taints that the node registers with (key=value:effect)")
	fl.IntVar(&f.c.MaxPods, "max-pods", 110, "how many pods may run here")
	fl.StringToStringVar(&f.reserved, "system-reserved", nil, "what pods may not use, for the board's other programs (cpu=200m,memory=128Mi,ephemeral-storage=1Gi)")
	fl.StringSliceVar(&f.c.EvictionHard, "eviction-hard", nil, "what must stay free, else pods are evicted (default memory.available<100Mi or, on small boards, <10%; nodefs.available<10%, nodefs.inodesFree<5%, imagefs.available<15%, imagefs.inodesFree<5%, pid.available<10%)")
	fl.DurationVar(&f.c.PressureTransition, "eviction-pressure-transition-period", shortage.DefaultTransition, "how long the node stays under pressure after its cause is gone")
	fl.IntVar(&f.c.ImagesHigh, "image-gc-high-threshold", shortage.DefaultHigh, "percent of the disk with images above which images that no pod uses are removed (100: never)")
	fl.IntVar(&f.c.ImagesLow, "image-gc-low-threshold", shortage.DefaultLow, "percent of that disk below which none is removed any more")
	fl.DurationVar(&f.c.ImagesAge, "minimum-image-ttl-duration", shortage.DefaultAge, "how long an image is kept that no pod uses")
	fl.StringSliceVar(&f.mirrors, "mirror", nil, "registries to ask in place of one (docker.io=https://mirror:5000; * for any), in their order")
	fl.StringSliceVar(&f.c.InsecureRegistries, "insecure-registry", nil, "registries (host:port) that are spoken to without TLS")
	fl.IntVar(&f.c.IngressHTTP, "ingress-http-port", 80, "port at which this board serves Ingresses over HTTP (0: none)")
	fl.IntVar(&f.c.IngressHTTPS, "ingress-https-port", 443, "port at which this board serves Ingresses over HTTPS (0: none)")
	fl.BoolVar(&f.c.SetClock, "set-clock", false, "step this board's clock forward to the server's")
	fl.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	fl.BoolVar(&f.teardown, "teardown", false, "stop the pods and remove their mounts, interfaces, nftables table and cgroups, and end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) }
	settings.Bind(cmd)
	return cmd
}

func (f *flags) run(ctx context.Context) error {
	c, err := f.config()
	if err != nil {
		return err
	}
	if f.teardown {
		return agent.Teardown(ctx, c)
	}
	group, ctx := errgroup.WithContext(ctx)
	c.Ready = func() { group.Go(func() error { footprint.Keep(ctx, c.Logger); return nil }) }
	group.Go(func() error {
		err := agent.Run(ctx, c)
		if err == nil {
			err = context.Canceled // so that Keep ends too
		}
		return err
	})
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (f *flags) config() (agent.Config, error) {
	c := f.c
	var l slog.Level
	if err := l.UnmarshalText([]byte(f.level)); err != nil {
		return c, fmt.Errorf("--log-level %q: want debug, info, warn or error", f.level)
	}
	c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
	c.Version, c.Labels = version.Version, f.labels
	var err error
	if c.Token, err = f.joinToken(); err != nil {
		return c, err
	}
	if f.brokerCA != "" {
		if c.BrokerRoots, err = carrier.Authorities(f.brokerCA); err != nil {
			return c, fmt.Errorf("--broker-ca: %w", err)
		}
	}
	if c.MaxPods < 0 {
		return c, fmt.Errorf("--max-pods %d: want a positive number", c.MaxPods)
	}
	for flag, port := range map[string]int{"--ingress-http-port": c.IngressHTTP, "--ingress-https-port": c.IngressHTTPS} {
		if port < 0 || port > 65535 {
			return c, fmt.Errorf("%s %d: want a port, or 0 for none", flag, port)
		}
	}
	if value := link.IngressLabelOf(c.IngressHTTP, c.IngressHTTPS); value != "" && c.Labels[link.IngressLabel] == "" {
		c.Labels = maps.Clone(c.Labels)
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[link.IngressLabel] = value
	}
	if c.NodeIP != "" {
		if _, err := netip.ParseAddr(c.NodeIP); err != nil {
			return c, fmt.Errorf("--node-ip %q: want an address of this board, such as 192.168.1.7", c.NodeIP)
		}
	}
	if c.Reserved, err = reserved(f.reserved); err != nil {
		return c, err
	}
	for key, value := range f.labels {
		if err := checkLabel(key, value); err != nil {
			return c, err
		}
	}
	for _, s := range f.taints {
		t, err := taint(s)
		if err != nil {
			return c, err
		}
		c.Taints = append(c.Taints, t)
	}
	c.Mirrors, err = mirrors(f.mirrors)
	return c, err
}

// joinToken is the token of --token-file, if there is one.
func (f *flags) joinToken() (string, error) {
	if f.tokenFile == "" || f.teardown {
		return f.token, nil
	}
	text, err := os.ReadFile(f.tokenFile)
	switch {
	case errors.Is(err, os.ErrNotExist) && agent.Joined(f.c.DataDir): // a token is needed once, and may be removed then
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("--token-file: %s does not exist, and this node has not joined yet: write a token of `bramble token create` there", f.tokenFile)
	case err != nil:
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// mirrors reads registry=mirror.
func mirrors(given []string) (map[string][]string, error) {
	var out map[string][]string
	for _, s := range given {
		registry, mirror, ok := strings.Cut(s, "=")
		if !ok || registry == "" || mirror == "" {
			return nil, fmt.Errorf("--mirror %q: want registry=mirror, such as docker.io=http://192.168.1.2:5000", s)
		}
		if out == nil {
			out = map[string][]string{}
		}
		out[registry] = append(out[registry], mirror)
	}
	return out, nil
}

// reserved reads what is kept from pods.
func reserved(given map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, value := range given {
		switch q, err := resource.ParseQuantity(value); {
		case name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory) && name != string(corev1.ResourceEphemeralStorage):
			return nil, fmt.Errorf("--system-reserved %s=%s: want cpu, memory or ephemeral-storage", name, value)
		case err != nil || q.Sign() < 0:
			return nil, fmt.Errorf("--system-reserved %s=%s: want a quantity, such as 200m or 128Mi", name, value)
		default:
			out[corev1.ResourceName(name)] = q
		}
	}
	return out, nil
}

// checkLabel refuses what the API would refuse, and with it all that the node reports.
func checkLabel(key, value string) error {
	if said := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(said) > 0 {
		return fmt.Errorf("--node-label %s=%s: %s", key, value, strings.Join(said, "; "))
	}
	if link.RestrictedLabel(key) {
		return fmt.Errorf("--node-label %s=%s: no node gives itself a label of %s: use kubectl label node", key, value, corev1.LabelNamespaceNodeRestriction)
	}
	return nil
}

// taint reads key=value:effect or key:effect, as kubectl writes them.
func taint(s string) (corev1.Taint, error) {
	keyValue, effect, ok := strings.Cut(s, ":")
	key, value, _ := strings.Cut(keyValue, "=")
	t := corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)}
	switch t.Effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
	default:
		ok = false
	}
	if !ok || key == "" {
		return t, fmt.Errorf("--node-taint %q: want key=value:effect with the effect NoSchedule, PreferNoSchedule or NoExecute", s)
	}
	if said := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(said) > 0 {
		return t, fmt.Errorf("--node-taint %q: %s", s, strings.Join(said, "; "))
	}
	return t, nil
}
