package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// What is wrong is answered with an error that names the field or the thing, and the remedy, and leaves nothing
// half-done behind.
func TestBadInput(t *testing.T) {
	c := start(t, 2, hosts.ClusterOptions{Images: []string{image("busybox")}, Agents: 1})
	t.Run("manifests", func(t *testing.T) { c.badManifests(t) })
	t.Run("images", func(t *testing.T) { c.badImages(t) })
	t.Run("archive", func(t *testing.T) { c.badArchive(t) })
	t.Run("port taken", func(t *testing.T) { c.portTaken(t) })
	t.Run("tokens", func(t *testing.T) { c.badTokens(t) })
	t.Run("another cluster's folder", func(t *testing.T) { c.anotherCluster(t) })
}

func (c *cluster) badManifests(t *testing.T) {
	for _, m := range []struct {
		name, manifest string
		want           []string
	}{
		{"not YAML", "apiVersion: v1\nkind: [", []string{"error"}},
		{"unknown field", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: a, imagee: b}]}", []string{"spec.containers[0].imagee"}},
		{"missing image", "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: a}]}", []string{"spec.containers[0].image"}},
		{"selector without its label", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: bad}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}}`, []string{"selector", "template"}},
		{"port out of range", "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 70000}]}", []string{"spec.ports[0].port", "65535"}},
	} {
		err := c.Apply(c.ctx, m.manifest)
		if err == nil {
			t.Errorf("%s: accepted", m.name)
			continue
		}
		for _, w := range m.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not name %q: %v", m.name, w, err)
			}
		}
	}
	err := c.Apply(c.ctx, "apiVersion: apps/v1\nkind: Deploymint\nmetadata: {name: x}")
	for _, w := range []string{`no matches for kind "Deploymint" in version "apps/v1"`, "ensure CRDs are installed first"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("unknown kind: no %q in %v", w, err)
		}
	}
	if out := c.kubectl("get", "pods,deployments", "-o", "name"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

// badImages: one that is for another kind of board, which is not even taken in, and one that nobody has. What the
// import has found out keeps later pods from the board, and one that was bound before says why it waits.
func (c *cluster) badImages(t *testing.T) {
	const foreign = "example.test/foreign:frozen"
	c.bareContainer("bound", foreign, "Never")
	c.describes("bound", "ErrImageNeverPull")
	c.fails(t, c.Hosts[0], "an image for another board", []string{foreign, "linux/s390x", "linux/amd64"},
		"bramble", "image", "import", "--data-dir", hosts.DataDir, image("busybox-foreign"))
	const why = "image " + foreign + " is for linux/s390x, but this node is linux/amd64; use an image for linux/amd64, or a node that runs it"
	c.describes("bound", "ErrImageNeverPull", why)
	c.eventually(30*time.Second, "the server knows", func() error {
		out, err := c.Kubectl(c.ctx, "get", "node", "host1", "-o", "yaml")
		if err == nil && !strings.Contains(out, `{"example.test/foreign:frozen":["linux/s390x"]}`) {
			err = missing{foreign, out}
		}
		return err
	})
	c.bareContainer("pending", foreign, "IfNotPresent")
	c.describes("pending", "FailedScheduling",
		"0/1 nodes are available: 1 node(s) are linux/amd64 but image "+foreign+" is for linux/s390x only: use an image for linux/amd64 or add a node of linux/s390x.")
	if out := c.kubectl("get", "pod", "pending", "-o", "jsonpath={.status.phase} {.spec.nodeName}"); out != "Pending" {
		t.Errorf("the pod is %q", out)
	}
	// One that is put there by hand tries the registry, and names what is wrong rather than that there is no registry.
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: forced}
spec: {nodeName: host1, terminationGracePeriodSeconds: 0, containers: [{name: a, image: "` + foreign + `", imagePullPolicy: IfNotPresent}]}
`)
	c.describes("forced", "ErrImagePull", "Failed to pull image \""+foreign+"\": "+why)
	c.bareContainer("absent", "example.test/nowhere/absent:1", "IfNotPresent")
	c.describes("absent", "example.test/nowhere/absent:1", "ErrImagePull")
	for _, pod := range []string{"bound", "pending", "forced", "absent"} {
		c.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
	}
	c.knownImages(t)
}

// knownImages: the node's status names what it has, as a kubelet's does.
func (c *cluster) knownImages(t *testing.T) {
	out := c.kubectl("get", "node", "host1", "-o", "jsonpath={range .status.images[*]}{.names[*]} {.sizeBytes}{end}")
	if name, size, _ := strings.Cut(out, " "); !strings.Contains(name, "busybox") || len(size) < 6 || strings.Contains(out, "foreign") {
		t.Errorf("the node has %q", out)
	}
	if out := c.kubectl("describe", "node", "host1"); !strings.Contains(out, "Container Runtime Version") {
		t.Error(out)
	}
}

func (c *cluster) bareContainer(name, image, policy string) {
	c.t.Helper()
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: a, image: "` + image + `", imagePullPolicy: ` + policy + `}]}
`)
}

// describes waits until kubectl describe shows all of want for a pod.
func (c *cluster) describes(pod string, want ...string) {
	c.t.Helper()
	c.eventually(90*time.Second, "an event says what is wrong with "+pod, func() error {
		out, err := c.Kubectl(c.ctx, "describe", "pod", pod)
		if err != nil {
			return err
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				return missing{w, out}
			}
		}
		return nil
	})
}

// missing is a text that should have been in another.
type missing struct{ want, in string }

func (m missing) Error() string { return "no " + m.want + " in:\n" + tail(m.in, 15) }

// fails runs bramble on a host, which must fail with an error that names all of want.
func (c *cluster) fails(t *testing.T, h *hosts.Host, what string, want []string, argv ...string) {
	t.Helper()
	argv = append([]string{"timeout", "60", c.Program(argv[0])}, argv[1:]...)
	out, err := h.Run(c.ctx, argv...)
	if err == nil {
		t.Errorf("%s: accepted: %s", what, out)
		return
	}
	if strings.Contains(err.Error(), "exit status 124") {
		t.Errorf("%s: still running after a minute", what)
	}
	for _, w := range want {
		if !strings.Contains(err.Error()+out, w) {
			t.Errorf("%s: the error does not name %q: %v %s", what, w, err, tail(out, 5))
		}
	}
}

func (c *cluster) badArchive(t *testing.T) {
	h := c.Hosts[0]
	whole, err := os.ReadFile(image("busybox"))
	if err != nil {
		t.Fatal(err)
	}
	broken := append([]byte{}, whole...)
	broken[len(broken)/2] ^= 0xff // within the layer
	for name, data := range map[string][]byte{"cut.tar": whole[:len(whole)/2], "flipped.tar": broken, "text.tar": []byte("not an archive")} {
		path := h.Data(name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		c.fails(t, h, name, []string{name}, "bramble", "image", "import", "--data-dir", hosts.DataDir, filepath.Join(hosts.DataDir, name))
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if out, err := h.Run(c.ctx, c.Program("bramble"), "image", "ls", "--data-dir", hosts.DataDir); err != nil || strings.Count(out, "busybox") == 0 {
		t.Errorf("the good image is gone: %v %s", err, out)
	}
}

func (c *cluster) portTaken(t *testing.T) {
	h := c.Hosts[0]
	dir := "/run/second"
	c.fails(t, h, "API port", []string{APIAddress(c)},
		"bramble", "server", "--data-dir", dir, "--api-listen", APIAddress(c), "--mqtt-listen", h.IP.String()+":18883")
	c.fails(t, h, "MQTT port", []string{h.IP.String() + ":" + hosts.MQTTPort},
		"bramble", "server", "--data-dir", dir, "--api-listen", h.IP.String()+":16443", "--mqtt-listen", h.IP.String()+":"+hosts.MQTTPort)
}

// APIAddress is where the cluster's server listens.
func APIAddress(c *cluster) string { return c.Hosts[0].IP.String() + ":" + hosts.APIPort }

func (c *cluster) badTokens(t *testing.T) {
	h := c.Hosts[1]
	url := "mqtts://" + c.Hosts[0].IP.String() + ":" + hosts.MQTTPort
	join := func(what, token string, want ...string) {
		t.Helper()
		c.fails(t, h, what, want, "bramble-agent", "--data-dir", hosts.DataDir, "--node-name", h.Name, "--server", url, "--token", token)
	}
	good, err := c.Token(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	join("no token at all", "", "token create")
	join("not a token", "secret", "token")
	join("a token of another cluster", flip(good, 8), "token create")
	join("a wrong secret", flip(good, len(good)-2), "another secret")
	short, err := c.Token(c.ctx, "--ttl", "1s")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	join("an expired token", short, "expired")
	if out := c.kubectl("get", "nodes", "-o", "name"); out != "node/host1" {
		t.Errorf("nodes: %s", out)
	}
}

// flip changes one digit of a token.
func flip(s string, i int) string {
	b := []byte(s)
	if b[i] == '0' {
		b[i] = '1'
	} else {
		b[i] = '0'
	}
	return string(b)
}

// anotherCluster: a node's folder that belongs to one cluster is not silently used for another.
func (c *cluster) anotherCluster(t *testing.T) {
	h := c.Hosts[1]
	p, err := h.Start("other", c.Program("bramble"), "up", "--data-dir", "/run/other", "--api-listen", h.IP.String()+":"+hosts.APIPort, "--mqtt-listen", h.IP.String()+":"+hosts.MQTTPort)
	if err != nil {
		t.Fatal(err)
	}
	c.eventually(time.Minute, "the other cluster has a node", func() error {
		_, err := h.Run(c.ctx, "test", "-e", "/run/other/agent/node.crt")
		return err
	})
	if err := p.Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
	token, err := c.Token(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.fails(t, h, "a folder of another cluster", []string{"cluster", "/run/other"}, "bramble-agent", "--data-dir", "/run/other",
		"--node-name", h.Name, "--server", "mqtts://"+c.Hosts[0].IP.String()+":"+hosts.MQTTPort, "--token", token)
}
