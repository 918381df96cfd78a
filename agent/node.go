package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/kubelet"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/internal/upstream"
	"bramble.dev/link"
	"bramble.dev/mesh"
)

// look is how often the node looks at itself: its address, its resolvers, and the ports that are in use. It
// reads a few files and writes none.
const look = 10 * time.Second

// self is the node as it sees itself.
type self struct {
	config  Config
	images  func(context.Context) ([]seam.Image, error)
	offers  func() map[string][]string // platforms of images, by name
	network *network
	report  func(*link.NodeReport)
	log     *slog.Logger
	wake    chan struct{} // capacity 1
	// moved is called when the node's address has changed.
	moved func()
	// pressure is what the board is short of.
	pressure func() status.Pressure

	machine status.Machine

	mu     sync.Mutex
	ip     netip.Addr
	status corev1.NodeStatus
}

func (s *self) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// address is the node's address.
func (s *self) address() netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ip
}

// addresses are the node's, as pods and the API are told them: none while none was found.
func (s *self) addresses() []string {
	if ip := s.address(); ip.IsValid() {
		return []string{ip.String()}
	}
	return nil
}

// find looks for the node's address; one that cannot be found stays what it was.
func (s *self) find() (changed bool) {
	hint := s.config.NodeIP
	if hint == "" && len(s.config.Servers) > 0 {
		hint = s.config.Servers[0]
	}
	ip, err := mesh.NodeIP(hint)
	if err != nil {
		s.log.Debug("the node's address cannot be found", "err", err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.ip != ip
	s.ip = ip
	return changed
}

// allocatable is what pods may use.
func (s *self) allocatable() corev1.ResourceList {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Allocatable
}

// update makes the node's status and reports it.
func (s *self) update(ctx context.Context) {
	images, err := s.images(ctx)
	if err != nil {
		s.log.Warn("images cannot be listed", "err", err)
	}
	in := status.NodeInput{
		Name: s.config.NodeName, IPs: s.addresses(), Machine: s.machine, MaxPods: s.config.MaxPods, Reserved: s.config.reserved(s.machine),
		Runtime: s.config.Version, Kubelet: upstream.Version, Images: images, Pressure: s.pressure(), Now: time.Now(),
	}
	if err := s.network.problem(); err != nil {
		in.NotReady = []string{"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:" + err.Error()}
	}
	in.Site, in.OtherSites = s.network.sites()
	in.Ports = s.network.ports.inUse()
	s.mu.Lock()
	in.Old = s.status
	s.status = status.Node(in)
	report := &link.NodeReport{Status: s.status, MAC: s.network.MAC(), Labels: s.labels(), Taints: s.config.Taints, Platforms: s.offers(), LocalVolumes: s.config.dir(localVolumes)}
	s.mu.Unlock()
	s.report(report)
}

func (s *self) labels() map[string]string {
	labels := map[string]string{
		corev1.LabelHostname: s.config.NodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: s.machine.Architecture,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": s.machine.Architecture,
	}
	for k, v := range s.config.Labels {
		labels[k] = v
	}
	return labels
}

// run keeps the node's status, until ctx is done.
func (s *self) run(ctx context.Context) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-ticker.C:
			if s.find() {
				s.log.Info("the node's address has changed", "address", s.address().String())
				s.moved()
			}
			if s.network.asksOthers() {
				s.network.poke()
			}
			if changed, err := s.network.ports.look(); changed && err == nil {
				s.network.poke()
			}
			if s.network.ingress != nil && s.network.ingress.Retry() {
				s.network.poke()
			}
		}
		s.update(ctx)
	}
}

// stats is what the whole node uses.
func (s *self) stats() kubelet.NodeStats {
	n := kubelet.NodeStats{At: time.Now()}
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		n.CPUNanos, n.StartedAt = cpuStat(string(b))
	}
	m := status.Meminfo()
	n.MemoryAvailable = uint64(m["MemAvailable"])
	n.MemoryUsage = uint64(m["MemTotal"] - m["MemFree"])
	n.MemoryWorkingSet = uint64(max(m["MemTotal"]-m["MemAvailable"], 0))
	var fs unix.Statfs_t
	if err := unix.Statfs(s.config.dir(), &fs); err == nil {
		size := uint64(fs.Bsize)
		n.FsCapacity, n.FsAvailable, n.FsUsed = fs.Blocks*size, fs.Bavail*size, (fs.Blocks-fs.Bfree)*size
		n.FsInodes, n.FsInodesFree = fs.Files, fs.Ffree
	}
	return n
}

// cpuStat reads /proc/stat: the time that all processors worked, and when the node was started.
func cpuStat(stat string) (nanos uint64, boot time.Time) {
	const tick = 10_000_000 // the unit of USER_HZ, 100 on all machines that Linux runs on
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "cpu":
			for i, f := range fields[1:] {
				n, err := strconv.ParseUint(f, 10, 64)
				if err == nil && i != 3 && i != 4 && i < 8 { // idle and iowait are no work; guests count twice
					nanos += n * tick
				}
			}
		case "btime":
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				boot = time.Unix(n, 0)
			}
		}
	}
	return nanos, boot
}
