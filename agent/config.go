package agent

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/shortage"
	"bramble.dev/agent/uplink"
)

// Config is how an agent is started.
type Config struct {
	DataDir  string // the agent's own things are in its folder agent/
	NodeName string // "": the host's name
	// Servers are the URLs of brokers (mqtts://host:8883), tried in turn. What the cluster tells
	// later is known too.
	Servers []string
	Token   string // for joining

	Runc, Shim, Pause string // executables; "": beside this one
	NodeIP            string // "": the address towards the server
	Labels            map[string]string
	Taints            []corev1.Taint      // that the node is registered with
	MaxPods           int                 // 0: 110
	Reserved          corev1.ResourceList // what pods may not use, beside what is to stay free

	// EvictionHard are thresholds (memory.available<64Mi). Each takes the place of the default of its signal; 0% takes that away.
	EvictionHard          []string
	PressureTransition    time.Duration // that a node stays under pressure after its cause; 0: 5 minutes
	ImagesHigh, ImagesLow int           // percent of the images' file system; 0: 85 and 80
	ImagesAge             time.Duration // that an image is kept in any case; 0: 2 minutes

	// IngressHTTP and IngressHTTPS are the ports of this board at which Ingresses are served; 0: none.
	IngressHTTP, IngressHTTPS int

	Mirrors            map[string][]string
	InsecureRegistries []string
	BrokerRoots        *x509.CertPool // of a broker that neither the cluster nor the system knows
	SetClock           bool           // the system's clock may be stepped forward
	Version            string         // of this program

	thresholds []shortage.Threshold

	Logger *slog.Logger
	// Ready is called once what the database holds has been started; may be nil.
	Ready func()
}

// Instance tells the links, tables and cgroups of one data folder from those of another.
func Instance(dataDir string) string {
	if abs, err := filepath.Abs(dataDir); err == nil {
		dataDir = abs
	}
	sum := sha256.Sum256([]byte(dataDir))
	return hex.EncodeToString(sum[:])[:6]
}

// Joined says whether the agent of a data folder has joined a cluster, and needs no token any more.
func Joined(dataDir string) bool { return uplink.Joined((&Config{DataDir: dataDir}).dir()) }

func (c *Config) complete() error {
	if c.DataDir == "" {
		return errors.New("the agent has no data folder (--data-dir)")
	}
	var err error
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if c.NodeName == "" {
		if c.NodeName, err = os.Hostname(); err != nil {
			return fmt.Errorf("the host has no name; give --node-name: %w", err)
		}
		c.NodeName = strings.ToLower(c.NodeName)
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if err := c.completeShortage(); err != nil {
		return err
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the programs beside this one: %w", err)
	}
	for program, name := range map[*string]string{&c.Runc: "runc", &c.Shim: "bramble-shim", &c.Pause: "bramble-pause"} {
		if *program == "" {
			*program = filepath.Join(filepath.Dir(exe), name)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// localVolumes is the folder of the volumes that are made on this node. They outlive pods, and are removed one by one, when
// the server says so.
const localVolumes = "local-volumes"

func (c *Config) dir(parts ...string) string {
	return filepath.Join(append([]string{c.DataDir, "agent"}, parts...)...)
}
