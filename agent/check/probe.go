package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probe tries the feature for real, in namespaces that end with it: a module's presence says less than its use.
func probe(feature string) error {
	switch feature {
	case "overlay":
		modprobe("overlay")
		return isolated(unix.CLONE_NEWNS, overlay)
	case "vxlan":
		modprobe("vxlan")
		return isolated(unix.CLONE_NEWNET, vxlan)
	case "nftables":
		modprobe("nf_tables")
		return isolated(unix.CLONE_NEWNET, nft)
	default:
		return fmt.Errorf("no probe for %q", feature)
	}
}

// isolated runs f on a thread that has namespaces of its own and ends with it.
func isolated(flags int, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS | flags); err != nil {
			result <- fmt.Errorf("new namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

func overlay() (err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	dir, err := os.MkdirTemp("", "bramble-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// An overlay may not lie on another (as in a container): a tmpfs below it shows what the kernel can.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return fmt.Errorf("tmpfs: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)) }()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	merged := filepath.Join(dir, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay: %w", err)
	}
	return unix.Unmount(merged, unix.MNT_DETACH)
}

func vxlan() error {
	link := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "check"}, VxlanId: 1, Port: 8472}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add a VXLAN link: %w", err)
	}
	return nil
}

func nft() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Name: "check", Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyAccept
	c.AddChain(&nftables.Chain{Name: "nat", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityNATDest, Policy: &policy})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add a NAT chain to a table: %w", err)
	}
	return nil
}

func effective() (uint64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status names no capabilities")
}
