// Package container turns a Kubernetes container into the OCI specification that runc runs.
//
// The invariant: Spec is a pure function of its Input. What has to be looked up (users in the image, what the machine
// can do) is looked up before by User and Detect, so that golden files can say what comes out.
//
//	user, err := container.LookUp(root, pod, c, img.Config.User)
//	spec, err := container.Spec(container.Input{Pod: pod, Container: c, Image: img.Config, Root: root, User: user, ...})
package container

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/runtime/image"
)

// Input is everything that a container's specification depends on.
type Input struct {
	Pod       *corev1.Pod
	QOS       corev1.PodQOSClass // of the pod
	Container *corev1.Container
	Resources corev1.ResourceRequirements // of the container's cgroup
	Image     image.Config
	Root      string // mounted root file system
	User      User
	Env       []string // K=V, resolved
	Command   []string // expanded; empty: the image's
	Args      []string
	Mounts    []Mount // volumes
	Devices   []Device
	Cgroup    string // path
	Host      Host
	Sandbox   Sandbox
	TargetPid int // of the container whose processes an ephemeral container sees; 0 is none
}

// Sandbox is what the pod's containers share.
type Sandbox struct {
	Pause       int    // process that holds the namespaces
	NetNS       string // path; "" is the one of the pause process
	Hostname    string
	Hosts       string // files on the host that are mounted as /etc/hosts, /etc/hostname, /etc/resolv.conf
	HostsName   string
	ResolvConf  string
	Shm         string // folder on the host that is mounted as /dev/shm
	Termination string // file on the host for the termination message
}

// Mount is a volume's mount.
type Mount struct {
	Source, Target    string
	ReadOnly          bool
	RecursiveReadOnly bool
	NoExec            bool   // as its source is mounted: a bind of it would not be by itself
	Propagation       string // None, HostToContainer, Bidirectional
}

// ConfigError says that the pod's own words cannot be followed on this node.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

func configError(format string, args ...any) error {
	return &ConfigError{fmt.Errorf(format, args...)}
}

// Spec builds the specification.
func Spec(in Input) (*specs.Spec, error) {
	if in.Pod.Spec.HostUsers != nil && !*in.Pod.Spec.HostUsers {
		return nil, configError("spec.hostUsers: false is not supported by this node; remove the field")
	}
	s := &specs.Spec{
		Version: "1.2.0",
		Root:    &specs.Root{Path: in.Root, Readonly: readOnlyRoot(in)},
		Linux: &specs.Linux{
			CgroupsPath: in.Cgroup,
			Namespaces:  namespaces(in),
		},
	}
	var err error
	if s.Process, err = process(in); err != nil {
		return nil, err
	}
	s.Linux.Resources = Limits(in.Resources, in.Host)
	if s.Linux.Devices, err = devices(in, s.Linux.Resources); err != nil {
		return nil, err
	}
	s.Mounts, s.Linux.RootfsPropagation = mounts(in)
	if !privileged(in) && !unmasked(in) {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	if s.Linux.Seccomp, err = seccomp(in); err != nil {
		return nil, err
	}
	if s.Process.ApparmorProfile, err = apparmor(in); err != nil {
		return nil, err
	}
	return s, nil
}

func namespaces(in Input) []specs.LinuxNamespace {
	pod := in.Pod.Spec
	shared := func(kind specs.LinuxNamespaceType, file string) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", in.Sandbox.Pause, file)}
	}
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !pod.HostIPC {
		list = append(list, shared(specs.IPCNamespace, "ipc"))
	}
	if !pod.HostNetwork {
		net := shared(specs.NetworkNamespace, "net")
		if in.Sandbox.NetNS != "" {
			net.Path = in.Sandbox.NetNS
		}
		list = append(list, net, shared(specs.UTSNamespace, "uts"))
	}
	switch {
	case pod.HostPID:
	case in.TargetPid > 0:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: fmt.Sprintf("/proc/%d/ns/pid", in.TargetPid)})
	case pod.ShareProcessNamespace != nil && *pod.ShareProcessNamespace:
		list = append(list, shared(specs.PIDNamespace, "pid"))
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if in.Host.Unified && !privileged(in) {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// process says what is run, and as whom.
func process(in Input) (*specs.Process, error) {
	c := in.Container
	command, args := in.Command, in.Args
	if len(command) == 0 {
		command = in.Image.Entrypoint
		if len(args) == 0 {
			args = in.Image.Cmd
		}
	}
	argv := append(append([]string{}, command...), args...)
	if len(argv) == 0 {
		return nil, configError("no command specified: neither the container %q nor its image has one", c.Name)
	}
	cwd := c.WorkingDir
	if cwd == "" {
		cwd = in.Image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	score := oomScore(in.Pod, in.QOS, c, in.Host)
	caps, err := capabilities(in)
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		Terminal:        c.TTY,
		User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups},
		Args:            argv,
		Env:             environment(in),
		Cwd:             cwd,
		Capabilities:    caps,
		NoNewPrivileges: noNewPrivileges(in),
		OOMScoreAdj:     &score,
	}, nil
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment merges what every container has, the image's and the container's; the last of a name wins.
func environment(in Input) []string {
	env := []string{defaultPath, "HOSTNAME=" + in.Sandbox.Hostname}
	if in.Container.TTY {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{}
	var merged []string
	for _, kv := range append(append(env, in.Image.Env...), in.Env...) {
		name := kv
		for i := range kv {
			if kv[i] == '=' {
				name = kv[:i]
				break
			}
		}
		if i, ok := at[name]; ok {
			merged[i] = kv
			continue
		}
		at[name] = len(merged)
		merged = append(merged, kv)
	}
	return merged
}

func privileged(in Input) bool {
	sc := in.Container.SecurityContext
	return sc != nil && sc.Privileged != nil && *sc.Privileged
}

func readOnlyRoot(in Input) bool {
	sc := in.Container.SecurityContext
	return sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
}
