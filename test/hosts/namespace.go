package hosts

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is a holder process and the namespaces that live by it.
type namespace struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	handle  namespaceHandle
	netlink *netlink.Handle
}

// namespaceHandle is an open network namespace, with what speaks netlink in it.
type namespaceHandle struct {
	fd      int
	netlink *netlink.Handle
}

// rootNamespace is the one that this process runs in. Not opened before it is wanted: the holder, which is this
// executable too, has no /proc of its own yet when its variables are initialised.
var rootNamespace = sync.OnceValues(func() (namespaceHandle, error) {
	fd, err := netns.Get()
	if err != nil {
		return namespaceHandle{}, fmt.Errorf("open the network namespace: %w", err)
	}
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return namespaceHandle{}, fmt.Errorf("netlink: %w", err)
	}
	return namespaceHandle{int(fd), h}, nil
})

// newNamespace starts a holder for the host whose data lies in folder ("-": a network only), within the lab's cgroup.
func newNamespace(folder, lab, host string) (*namespace, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = []string{holderVariable + "=" + folder, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the holder: %w", err)
	}
	n := &namespace{cmd: cmd, stdin: stdin}
	if err := n.open(lab, host, stdout); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *namespace) open(lab, host string, stdout io.Reader) error {
	if lab != "" {
		if err := cgroupOf(lab, host, n.cmd.Process.Pid); err != nil {
			return err
		}
	}
	ns, err := netns.GetFromPid(n.cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	if n.netlink, err = netlink.NewHandleAt(ns, syscall.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	n.handle = namespaceHandle{int(ns), n.netlink}
	if _, err := io.WriteString(n.stdin, "go\n"); err != nil {
		return fmt.Errorf("wake the holder: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if strings.TrimSpace(line) != "ok" {
		return fmt.Errorf("holder: %s", strings.TrimSpace(line+" "+fmt.Sprint(err)))
	}
	return n.handle.configure("lo", netip.Prefix{})
}

// close ends the holder, and with it every process of its namespace.
func (n *namespace) close() {
	_ = n.stdin.Close()
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	if n.netlink != nil {
		n.netlink.Close()
		_ = syscall.Close(n.handle.fd)
	}
}

// configure sets an interface up, with an address if there is one.
func (h namespaceHandle) configure(name string, address netip.Prefix) error {
	link, err := h.netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the interface %s: %w", name, err)
	}
	if address.IsValid() {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), 32)}}
		if err := h.netlink.AddrAdd(link, a); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("add %s to %s: %w", address, name, err)
		}
	}
	if err := h.netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}
