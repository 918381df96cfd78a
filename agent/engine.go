package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/kubelet"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/runtime/container"
	"bramble.dev/runtime/engine"
	"bramble.dev/runtime/image"
	"bramble.dev/runtime/logs"
)

// runtime makes the engine fit the seam.
type runtime struct {
	*engine.Engine
	refs sync.Map // image ID -> reference, because List is asked often
}

func (r *runtime) reference(id string) string {
	if ref, ok := r.refs.Load(id); ok {
		return ref.(string)
	}
	img, ok := r.Images().Resolve(id)
	if !ok {
		return id
	}
	r.refs.Store(id, img.Reference())
	return img.Reference()
}

func (r *runtime) sandbox(s engine.Sandbox) seam.Sandbox {
	out := seam.Sandbox{
		ID: s.ID, PodUID: s.PodUID, Namespace: s.Namespace, Name: s.Name, Attempt: s.Attempt, Ready: s.Ready, CreatedAt: s.CreatedAt, NetNS: s.NetNS, Resources: s.Resources,
		Containers: make([]seam.Container, len(s.Containers)),
	}
	for i, c := range s.Containers {
		out.Containers[i] = r.container(c)
	}
	return out
}

func (r *runtime) container(c engine.Container) seam.Container {
	return seam.Container{
		ID: c.ID, Name: c.Name, SandboxID: c.SandboxID, Attempt: c.Attempt, Image: c.Image, ImageID: r.reference(c.ImageID), SpecHash: c.SpecHash,
		State: seam.State(c.State), Pid: c.Pid, CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt, ExitCode: c.ExitCode,
		OOMKilled: c.OOMKilled, Reason: c.Reason, Message: c.Message, LogPath: c.LogPath, User: toUser(c.User), Resources: c.Resources,
	}
}

// toUser is a user as a pod's status tells it.
func toUser(u *container.User) *corev1.LinuxContainerUser {
	if u == nil {
		return nil
	}
	out := &corev1.LinuxContainerUser{UID: int64(u.UID), GID: int64(u.GID)}
	for _, g := range u.Groups {
		out.SupplementalGroups = append(out.SupplementalGroups, int64(g))
	}
	return out
}

// List implements seam.Runtime.
func (r *runtime) List(ctx context.Context) ([]seam.Sandbox, error) {
	list, err := r.Engine.List(ctx)
	out := make([]seam.Sandbox, len(list))
	for i, s := range list {
		out[i] = r.sandbox(s)
	}
	return out, err
}

// RunSandbox implements seam.Runtime.
func (r *runtime) RunSandbox(ctx context.Context, s seam.SandboxSpec) (seam.Sandbox, error) {
	got, err := r.Engine.RunSandbox(ctx, engine.SandboxSpec{
		Pod: s.Pod, Attempt: s.Attempt, Hostname: s.Hostname, NetNS: s.NetNS, ResolvConf: s.ResolvConf, HostsFile: s.HostsFile, LogDir: s.LogDir,
	})
	return r.sandbox(got), err
}

// StartContainer implements seam.Runtime. Its errors are the kubelet's words, for people read them.
func (r *runtime) StartContainer(ctx context.Context, sandbox string, s seam.ContainerSpec) (seam.Container, error) {
	got, err := r.Engine.StartContainer(ctx, sandbox, toContainerSpec(s))
	var config *engine.ConfigError
	var start *engine.StartError
	switch {
	case errors.As(err, &config):
		err = &seam.ConfigError{Err: config}
	case errors.As(err, &start):
		err = errors.New(start.Message)
	}
	return r.container(got), err
}

func toContainerSpec(s seam.ContainerSpec) engine.ContainerSpec {
	out := engine.ContainerSpec{
		Pod: s.Pod, QOS: podspec.QOS(s.Pod), Container: s.Container, Resources: &s.Resources, Attempt: s.Attempt, ImageID: s.ImageID, Env: s.Env, Command: s.Command, Args: s.Args,
		SpecHash: s.SpecHash, LogPath: s.LogPath, Target: s.Target,
	}
	for _, m := range s.Mounts {
		out.Mounts = append(out.Mounts, engine.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly, NoExec: m.NoExec, Propagation: string(m.Propagation)})
	}
	return out
}

func toStreams(ctx context.Context, s seam.Streams) engine.Streams {
	out := engine.Streams{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, TTY: s.TTY}
	if s.Resize != nil {
		sizes := make(chan engine.TerminalSize)
		out.Resize = sizes
		go func() { // ends with the client's sizes, or with the session
			defer close(sizes)
			for size := range s.Resize {
				select {
				case sizes <- engine.TerminalSize{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return out
}

// Exec implements seam.Runtime.
func (r *runtime) Exec(ctx context.Context, id string, cmd []string, s seam.Streams) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return r.Engine.Exec(ctx, id, cmd, toStreams(ctx, s))
}

// Attach implements seam.Runtime.
func (r *runtime) Attach(ctx context.Context, id string, s seam.Streams) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return r.Engine.Attach(ctx, id, toStreams(ctx, s))
}

// Stats implements seam.Runtime.
func (r *runtime) Stats(ctx context.Context) ([]seam.PodStats, error) {
	list, err := r.Engine.Stats(ctx)
	out := make([]seam.PodStats, len(list))
	for i, p := range list {
		out[i] = seam.PodStats{
			PodUID: p.PodUID, Namespace: p.Namespace, Name: p.Name, At: p.Time,
			CPUNanos: uint64(p.Usage.CPU), MemoryWorkingSet: p.Usage.WorkingSet, Pids: p.Usage.Pids,
		}
		for _, c := range p.Containers {
			out[i].Containers = append(out[i].Containers, seam.ContainerStats{
				Name: c.Name, ID: c.ID, At: c.Usage.Time, StartedAt: c.StartedAt,
				CPUNanos: uint64(c.Usage.CPU), MemoryUsage: c.Usage.Memory, MemoryWorkingSet: c.Usage.WorkingSet, MemoryRSS: c.Usage.RSS, Pids: c.Usage.Pids,
			})
		}
	}
	return out, err
}

// images makes the engine's images fit the seam, and tells when they change.
type images struct {
	*image.Store
	remove  func(ctx context.Context, ref string) error // knows what runs
	changed func()
}

func toImage(i image.Image) seam.Image {
	return seam.Image{ID: i.ID, Names: append(append([]string{}, i.Digests...), i.Names...), Platform: i.Platform.String(), Size: i.Size, Used: i.Used, Imported: i.Imported}
}

// nodeImages is the images for the agent's parts; images itself is what the control socket serves.
type nodeImages struct{ *images }

// Resolve implements seam.Images. An image that is for other boards is as good as none: one for
// this board is looked for.
func (n nodeImages) Resolve(_ context.Context, ref string) (seam.Image, bool) {
	i, ok := n.Store.Resolve(ref)
	return toImage(i), ok && n.Store.Unfit(ref) == nil
}

// boards are the platforms that Bramble is built for.
var boards = []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}

// offers tells for which platforms images are.
func (i *images) offers() map[string][]string { return choosy(i.Offers()) }

// choosy picks the images that not all kinds of boards run: what all run helps no scheduler, and
// would be told of every node.
func choosy(offers map[string][]image.Platform) map[string][]string {
	out := map[string][]string{}
	for name, platforms := range offers {
		list := make([]string, len(platforms))
		for at, p := range platforms {
			list[at] = p.String()
		}
		if slices.ContainsFunc(boards, func(b string) bool { return !slices.Contains(list, b) }) {
			out[name] = list
		}
	}
	return out
}

// Misnamed implements seam.Images.
func (n nodeImages) Misnamed(ref string) error {
	_, err := image.ParseName(ref)
	return err
}

// ResolveFor implements seam.Images. A Secret that cannot be read opens nothing; a pull says what is wrong with it.
func (n nodeImages) ResolveFor(_ context.Context, ref string, secrets []*corev1.Secret) (seam.Image, bool) {
	keys, _ := keyring(secrets)
	i, ok := n.Store.ResolveFor(ref, keys)
	return toImage(i), ok && n.Store.Unfit(ref) == nil
}

// keyring holds what pull secrets have for registries; as far as it came, if one of them cannot be read.
func keyring(secrets []*corev1.Secret) (*image.Keyring, error) {
	keys := new(image.Keyring)
	for _, s := range secrets {
		for _, key := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
			if b, ok := s.Data[key]; ok {
				if err := keys.AddDockerConfig(fmt.Sprintf("%s/%s/%s", s.Namespace, s.Name, s.UID), b); err != nil {
					return keys, fmt.Errorf("secret %s/%s: %w", s.Namespace, s.Name, err)
				}
			}
		}
	}
	return keys, nil
}

// Pull implements seam.Images.
func (n nodeImages) Pull(ctx context.Context, ref string, secrets []*corev1.Secret) (seam.Image, error) {
	keys, err := keyring(secrets)
	if err != nil {
		return seam.Image{}, err
	}
	name, err := image.ParseName(ref)
	if err != nil {
		return seam.Image{}, err
	}
	i, err := n.images.Pull(ctx, ref, image.PullOptions{Auth: keys.Lookup(name)})
	var away *image.UnreachableError
	if errors.As(err, &away) {
		err = &seam.UnreachableError{Err: err}
	}
	return toImage(i), err
}

// List implements seam.Images.
func (n nodeImages) List(context.Context) ([]seam.Image, error) {
	var out []seam.Image
	for _, i := range n.Store.List() {
		out = append(out, toImage(i))
	}
	return out, nil
}

// Remove implements seam.Images.
func (n nodeImages) Remove(ctx context.Context, ref string) error { return n.images.Remove(ctx, ref) }

// Pull implements control.Images.
func (i *images) Pull(ctx context.Context, ref string, o image.PullOptions) (image.Image, error) {
	defer i.changed()
	return i.Store.Pull(ctx, ref, o)
}

// Import implements control.Images.
func (i *images) Import(ctx context.Context, r io.Reader) ([]image.Image, error) {
	defer i.changed()
	return i.Store.Import(ctx, r)
}

// Remove implements control.Images.
func (i *images) Remove(ctx context.Context, ref string) error {
	defer i.changed()
	return i.remove(ctx, ref)
}

func readLog(ctx context.Context, path string, o kubelet.LogOptions, stdout, stderr io.Writer) error {
	opts := logs.Options{Follow: o.Follow, Ended: o.Ended, Since: o.Since, Timestamps: o.Timestamps, Limit: o.Limit}
	if o.Tail != nil {
		opts.Tail, opts.HasTail = int(*o.Tail), true
	}
	return logs.Read(ctx, path, opts, stdout, stderr)
}

var _ seam.Runtime = (*runtime)(nil)
var _ seam.Images = nodeImages{}
