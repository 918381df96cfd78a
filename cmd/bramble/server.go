package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"bramble.dev/cmd/footprint"
	"bramble.dev/cmd/settings"
	"bramble.dev/cmd/version"
	"bramble.dev/link"
	"bramble.dev/server"
	"bramble.dev/server/api/audit"
	"bramble.dev/server/api/openid"
	"bramble.dev/server/auth"
	"bramble.dev/server/controllers/loadbalancer"
)

// serverFlags are what `server` and `up` have in common.
type serverFlags struct {
	apiListen, mqttListen, broker, brokerCA, advertise, domain string
	podCIDR, serviceCIDR                                       string
	names, loadBalancers                                       []string
	acrossSites, directRoutes                                  bool
	audit                                                      audit.Options
	openID                                                     openid.Options
	store                                                      storeFlags
}

func (f *serverFlags) declare(flags *pflag.FlagSet) {
	f.store.declare(flags)
	flags.StringVar(&f.apiListen, "api-listen", "0.0.0.0:6443", "host:port of the Kubernetes API")
	flags.StringVar(&f.mqttListen, "mqtt-listen", "0.0.0.0:8883", "host:port of the embedded MQTT broker, to which agents connect")
	flags.StringVar(&f.broker, "broker", "", "use this MQTT broker in place of the embedded one (mqtts://user:password@host:8883; in BRAMBLE_BROKER or the file ps does not show the password)")
	flags.StringVar(&f.brokerCA, "broker-ca", "", "PEM file with the authorities of that broker's certificate (default: this machine's)")
	flags.StringVar(&f.advertise, "advertise-address", "", "address under which nodes reach the API (default: that of --api-listen, or this machine's first)")
	flags.StringSliceVar(&f.names, "api-name", nil, "further host names and addresses for the API's certificate")
	flags.StringVar(&f.domain, "cluster-domain", "cluster.local", "domain of the cluster's DNS names")
	flags.BoolVar(&f.directRoutes, "direct-routes", false, "hosts on one link (the same IP subnet) reach each other's pods by routes instead of VXLAN: no headers, the link's full MTU")
	flags.BoolVar(&f.acrossSites, "across-sites", false, "let pods of different sites reach each other: their packets travel between sites unencrypted, unless you encrypt that path yourself (WireGuard, IPsec)")
	flags.StringVar(&f.podCIDR, "pod-cidr", "10.42.0.0/16", "range that nodes get their pod subnets from")
	flags.StringVar(&f.serviceCIDR, "service-cidr", "10.43.0.0/16", "range that Services get their addresses from")
	flags.StringVar(&f.audit.Path, "audit-log-path", "", "write down who asks the API for what, in this file (a group of lines every 5 s; default: nowhere)")
	flags.StringVar(&f.audit.Policy, "audit-policy-file", "", "file with a Policy of audit.k8s.io/v1 that says what is written down (default: who changes what, without what was sent)")
	flags.IntVar(&f.audit.MaxSize, "audit-log-maxsize", 10, "MiB at which the audit log begins a new file")
	flags.IntVar(&f.audit.MaxBackups, "audit-log-maxbackup", 3, "how many older files of the audit log are kept (0: all)")
	flags.IntVar(&f.audit.MaxAge, "audit-log-maxage", 0, "days for which older files of the audit log are kept (0: for ever)")
	w, d := &f.audit.Webhook, audit.DefaultWebhook
	flags.StringVar(&w.Config, "audit-webhook-config-file", "", "kubeconfig file that names who is sent the same as the audit log (default: nobody)")
	flags.StringVar(&w.Mode, "audit-webhook-mode", d.Mode, "batch: later, many at once; blocking: before a request is answered; blocking-strict: and a request is refused of which nobody could be told")
	flags.DurationVar(&w.InitialBackoff, "audit-webhook-initial-backoff", d.InitialBackoff, "how long after a failure events are sent again the first time")
	flags.IntVar(&w.BufferSize, "audit-webhook-batch-buffer-size", d.BufferSize, "how many events wait to be sent; more are lost")
	flags.IntVar(&w.MaxSize, "audit-webhook-batch-max-size", d.MaxSize, "how many events are sent at once")
	flags.DurationVar(&w.MaxWait, "audit-webhook-batch-max-wait", d.MaxWait, "how long an event waits for others to be sent with")
	flags.Float32Var(&w.ThrottleQPS, "audit-webhook-batch-throttle-qps", d.ThrottleQPS, "how many batches are sent a second")
	flags.IntVar(&w.ThrottleBurst, "audit-webhook-batch-throttle-burst", d.ThrottleBurst, "how many batches are sent at once, if none were a while")
	flags.StringVar(&f.openID.File, "authentication-config", "", "file with an AuthenticationConfiguration of apiserver.config.k8s.io/v1: issuers outside of the cluster whose tokens let in (OpenID Connect), and where who shows nothing is let in")
	flags.StringVar(&f.openID.IssuerURL, "oidc-issuer-url", "", "https://... of an issuer whose tokens let in (OpenID Connect); these flags are for one, --authentication-config is for several (default: none)")
	flags.StringVar(&f.openID.ClientID, "oidc-client-id", "", "the client that the issuer's tokens must be for")
	flags.StringVar(&f.openID.CAFile, "oidc-ca-file", "", "PEM file with the authorities that the issuer's certificate comes from (default: this machine's)")
	flags.StringVar(&f.openID.UsernameClaim, "oidc-username-claim", openid.DefaultUsernameClaim, "what of a token is its user's name")
	flags.StringVar(&f.openID.UsernamePrefix, "oidc-username-prefix", "", "what users' names begin with here; - for nothing (default: the issuer's URL and #, but for the claim email)")
	flags.StringVar(&f.openID.GroupsClaim, "oidc-groups-claim", "", "what of a token names its user's groups (default: none)")
	flags.StringVar(&f.openID.GroupsPrefix, "oidc-groups-prefix", "", "what groups' names begin with here")
	flags.StringToStringVar(&f.openID.RequiredClaims, "oidc-required-claim", nil, "claim=value that a token must have; several by commas")
	flags.StringSliceVar(&f.openID.SigningAlgs, "oidc-signing-algs", nil, "how tokens may be signed (default: RS256)")
	flags.StringSliceVar(&f.loadBalancers, "load-balancer-pool", nil, "addresses of the nodes' own network that Services of type LoadBalancer get, and that nodes announce by ARP (192.168.1.240-192.168.1.250, or 192.168.1.240/28); without, they get the nodes' own addresses")
}

func (f *serverFlags) config(dir string, log *slog.Logger) (server.Config, error) {
	pods, err := prefix("--pod-cidr", f.podCIDR, "10.42.0.0/16")
	if err != nil {
		return server.Config{}, err
	}
	services, err := prefix("--service-cidr", f.serviceCIDR, "10.43.0.0/16")
	if err != nil {
		return server.Config{}, err
	}
	balancers, err := loadbalancer.ParsePool(f.loadBalancers)
	if err != nil {
		return server.Config{}, fmt.Errorf("--load-balancer-pool: %w", err)
	}
	for flag, p := range map[string]netip.Prefix{"--pod-cidr": pods, "--service-cidr": services} {
		if balancers.Overlaps(p) {
			return server.Config{}, fmt.Errorf("--load-balancer-pool %s overlaps %s %s: want addresses of the network that the nodes are on", balancers, flag, p)
		}
	}
	shared, err := f.store.etcd()
	if err != nil {
		return server.Config{}, err
	}
	return server.Config{DataDir: dir, Etcd: shared, APIListen: f.apiListen, MQTTListen: f.mqttListen, Broker: f.broker, BrokerCA: f.brokerCA, Advertise: f.advertise,
		Names: f.names, Domain: f.domain, Version: version.Version, PodCIDR: pods, ServiceCIDR: services, AcrossSites: f.acrossSites, DirectRoutes: f.directRoutes, LoadBalancers: balancers, Audit: f.audit, OpenID: f.openID, Starting: footprint.ThriftyAgain, Logger: log}, nil
}

func prefix(flag, s, example string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%s %q: want a range such as %s", flag, s, example)
	}
	return p, nil
}

func serverCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "server", Short: "Run the control plane", Args: cobra.NoArgs}
	dir, log := dataDir(cmd), logger(cmd)
	var f serverFlags
	f.declare(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := f.start(dir, log)
		if err != nil {
			return err
		}
		group, ctx := errgroup.WithContext(cmd.Context())
		c.Ready = func(server.Info) { keepSmall(ctx, group, c.Logger) }
		group.Go(func() error { return server.Run(ctx, c) })
		return group.Wait()
	}
	return configured(cmd)
}

// keepSmall keeps a server that is ready as small as its work allows.
func keepSmall(ctx context.Context, group *errgroup.Group, log *slog.Logger) {
	group.Go(func() error { footprint.Keep(ctx, log); return nil })
	group.Go(func() error { footprint.Stretch(ctx); return nil })
}

// start turns flags into a configuration, in a process that is about to serve.
func (f *serverFlags) start(dir func() (string, error), log func() (*slog.Logger, error)) (server.Config, error) {
	footprint.Thrifty()
	d, err := dir()
	if err != nil {
		return server.Config{}, err
	}
	l, err := log()
	if err != nil {
		return server.Config{}, err
	}
	return f.config(d, l)
}

// localTokenTTL is how long the supervised agent has to join: it starts at once.
const localTokenTTL = 10 * time.Minute

func upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a server, and supervise an agent beside it: a cluster of one board, which others may join",
		Args:  cobra.NoArgs,
	}
	dir, log := dataDir(cmd), logger(cmd)
	var f serverFlags
	f.declare(cmd.Flags())
	node := cmd.Flags().String("node-name", "", "name of this board's node (default: its host name)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := beside("bramble-agent")
		if err != nil {
			return err
		}
		if err := checkNodeName(*node); err != nil {
			return err
		}
		c, err := f.start(dir, log)
		if err != nil {
			return err
		}
		group, ctx := errgroup.WithContext(cmd.Context())
		c.Ready = func(info server.Info) {
			keepSmall(ctx, group, c.Logger)
			group.Go(func() error {
				agent, err := localAgent(ctx, c, info, path, *node, cmd.Flag("config").Value.String())
				if err != nil {
					return err
				}
				return supervise(ctx, c.Logger.With("part", "supervisor"), agent)
			})
		}
		group.Go(func() error { return server.Run(ctx, c) })
		return group.Wait()
	}
	return configured(cmd)
}

// checkNodeName refuses what the agent would refuse, and go on refusing at each of its starts.
func checkNodeName(name string) error {
	if name != "" {
		if err := link.CheckNodeName(name); err != nil {
			return fmt.Errorf("--node-name: %w", err)
		}
		return nil
	}
	host, err := os.Hostname()
	if err == nil {
		err = link.CheckNodeName(strings.ToLower(host))
	}
	if err != nil {
		return fmt.Errorf("this host's name cannot be that of a node: give one with --node-name: %w", err)
	}
	return nil
}

// localAgent is the agent that runs beside the server. Its token lies in a file, and the broker's URL, which may hold
// a password, in the environment: ps shows neither. config is the file of the board's settings, the agent's among them; "": none
// was named.
func localAgent(ctx context.Context, c server.Config, info server.Info, path, node, config string) (program, error) {
	dir := filepath.Join(c.DataDir, "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return program{}, err
	}
	agent := program{path: path, args: []string{"--data-dir", c.DataDir, "--log-level", level(ctx, c.Logger)},
		env: []string{settings.Variable("server") + "=" + info.MQTTURL}}
	if c.Broker != "" && c.BrokerCA != "" {
		agent.env = append(agent.env, settings.Variable("broker-ca")+"="+c.BrokerCA)
	}
	if config != "" {
		agent.env = append(agent.env, settings.Variable("config")+"="+config)
	}
	if node != "" {
		agent.args = append(agent.args, "--node-name", node)
	}
	// A node that has its certificate needs no token any more; a token that stays would be one to lose.
	if _, err := os.Stat(filepath.Join(dir, "node.crt")); err == nil {
		return agent, nil
	}
	token, err := auth.NewJoinToken(ctx, info.Admin, localTokenTTL, info.CAHash)
	if err != nil {
		return program{}, err
	}
	file := filepath.Join(dir, "join-token")
	if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
		return program{}, err
	}
	agent.args = append(agent.args, "--token-file", file)
	return agent, nil
}

// level is the one that the server's logger has, for the agent to have it too.
func level(ctx context.Context, log *slog.Logger) string {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(ctx, l) {
			return l.String()
		}
	}
	return slog.LevelError.String()
}
