// Package settings gives every executable one scheme for its configuration: a flag --data-dir is the environment
// variable BRAMBLE_DATA_DIR and the key data-dir of a YAML file named by --config. A flag beats the environment,
// which beats the file, which beats the default.
//
//	settings.Bind(cmd) // in a cobra command, after its flags are declared
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// DefaultFile is read when --config does not name another; it need not be there.
const DefaultFile = "/etc/bramble/config.yaml"

// Bind adds --config to the command and fills the flags that the command line left alone before the command runs.
func Bind(cmd *cobra.Command) {
	cmd.Flags().String("config", "", "YAML file with one key a flag (default "+DefaultFile+" where it exists)")
	inner := cmd.PreRunE
	cmd.PreRunE = func(c *cobra.Command, args []string) error {
		if err := Apply(c.Flags(), os.LookupEnv); err != nil {
			return err
		}
		if inner != nil {
			return inner(c, args)
		}
		return nil
	}
}

// Apply sets each flag that was not given from the environment or else from the file. An error names the
// variable, or the file and its key.
func Apply(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	file, values, err := readFile(flags, lookup)
	if err != nil {
		return err
	}
	var errs []error
	for key := range values {
		if flags.Lookup(key) == nil && !shared[key] {
			errs = append(errs, fmt.Errorf("%s: unknown key %q: the keys are the flags that --help lists, without the dashes", file, key))
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || f.Name == "help" {
			return
		}
		if v, ok := lookup(Variable(f.Name)); ok {
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", Variable(f.Name), err))
			}
			return
		}
		if v, ok := values[f.Name]; ok {
			if err := setFromFile(flags, f, v); err != nil {
				errs = append(errs, fmt.Errorf("%s: key %q: %w", file, f.Name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// Variable is the environment variable of a flag.
func Variable(flag string) string {
	return "BRAMBLE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// shared are the flags of all commands that make sense in a file: one file serves the server and the agent of a board
// (`bramble up` starts both) and the commands beside them, and each passes over what is another's. A test beside each
// command holds that its flags are here.
var shared = map[string]bool{
	"data-dir": true, "log-level": true, "node-name": true,
	// of the server
	"advertise-address": true, "across-sites": true, "api-listen": true, "api-name": true, "audit-log-maxage": true, "audit-log-maxbackup": true, "audit-log-maxsize": true, "audit-log-path": true, "audit-policy-file": true, "authentication-config": true,
	"audit-webhook-batch-buffer-size": true, "audit-webhook-batch-max-size": true, "audit-webhook-batch-max-wait": true, "audit-webhook-batch-throttle-burst": true, "audit-webhook-batch-throttle-qps": true, "audit-webhook-config-file": true, "audit-webhook-initial-backoff": true, "audit-webhook-mode": true,
	"broker": true, "broker-ca": true, "cluster-domain": true, "direct-routes": true,
	"etcd-cafile": true, "etcd-certfile": true, "etcd-keyfile": true, "etcd-prefix": true, "etcd-servers": true, "store": true,
	"load-balancer-pool": true, "mqtt-listen": true,
	"oidc-ca-file": true, "oidc-client-id": true, "oidc-groups-claim": true, "oidc-groups-prefix": true, "oidc-issuer-url": true, "oidc-required-claim": true, "oidc-signing-algs": true, "oidc-username-claim": true, "oidc-username-prefix": true,
	"pod-cidr": true, "service-cidr": true,
	// of the agent
	"eviction-hard": true, "eviction-pressure-transition-period": true, "image-gc-high-threshold": true, "image-gc-low-threshold": true, "ingress-http-port": true, "ingress-https-port": true, "insecure-registry": true, "max-pods": true, "minimum-image-ttl-duration": true, "mirror": true, "node-ip": true, "node-label": true,
	"node-taint": true, "server": true, "set-clock": true, "system-reserved": true, "token": true, "token-file": true,
}

// Shared says whether a flag is one that every command accepts as a key of the file.
func Shared(flag string) bool { return shared[flag] }

func readFile(flags *pflag.FlagSet, lookup func(string) (string, bool)) (string, map[string]any, error) {
	file, wanted := DefaultFile, false
	if v, ok := lookup("BRAMBLE_CONFIG"); ok {
		file, wanted = v, true
	}
	if f := flags.Lookup("config"); f != nil && f.Changed {
		file, wanted = f.Value.String(), true
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !wanted {
		return file, nil, nil
	}
	if err != nil {
		return file, nil, fmt.Errorf("read the configuration: %w", err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		return file, nil, fmt.Errorf("%s: not a YAML map of settings: %w", file, err)
	}
	return file, values, nil
}

func setFromFile(flags *pflag.FlagSet, f *pflag.Flag, v any) error {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = fmt.Sprint(e)
		}
		return flags.Set(f.Name, strings.Join(parts, ","))
	case map[string]any:
		parts := make([]string, 0, len(v))
		for k, e := range v {
			parts = append(parts, fmt.Sprintf("%s=%v", k, e))
		}
		sort.Strings(parts)
		return flags.Set(f.Name, strings.Join(parts, ","))
	case nil:
		return errors.New("has no value")
	default:
		return flags.Set(f.Name, fmt.Sprint(v))
	}
}
