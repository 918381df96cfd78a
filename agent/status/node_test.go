package status

import (
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"bramble.dev/agent/seam"
	"bramble.dev/internal/golden"
)

func nodeInput() NodeInput {
	return NodeInput{
		Name: "pi", IPs: []string{"192.168.1.2"}, MaxPods: 110, Runtime: "0.1.0", Kubelet: "v1.37.2", Now: t0,
		Machine: Machine{
			CPUs: 4, MemoryBytes: 4 << 30, DiskBytes: 32 << 30, MachineID: "m", SystemUUID: "s", BootID: "b", Kernel: "6.12", OSImage: "Debian", Architecture: "arm64",
			HugePages: map[string]int64{"hugepages-2Mi": 8 << 20},
		},
		Reserved: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		Images:   []seam.Image{{ID: "a", Names: []string{"small:1"}, Size: 1}, {ID: "b", Names: []string{"big:1"}, Size: 2}},
	}
}

func TestNodeGolden(t *testing.T) {
	got, err := yaml.Marshal(Node(nodeInput()))
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, filepath.Join("testdata", "node.yaml"), string(got))
}

// TestNodeWithoutAddress: the cable is out since the board began. The API refuses what is no address.
func TestNodeWithoutAddress(t *testing.T) {
	in := nodeInput()
	in.IPs = nil
	if got := Node(in).Addresses; len(got) != 1 || got[0].Type != corev1.NodeHostName {
		t.Errorf("%v", got)
	}
	told := Generate(Input{Pod: pod(), HostIPs: []string{"192.168.1.2"}, Now: t0})
	if again := Generate(Input{Pod: pod(), Old: told, Now: t0}); again.HostIP != "192.168.1.2" || len(again.HostIPs) != 1 {
		t.Errorf("what was told before is forgotten: %q %v", again.HostIP, again.HostIPs)
	}
}

func TestNodeStatusIsQuiet(t *testing.T) {
	in := nodeInput()
	first := Node(in)
	in.Old, in.Now = first, t0.Add(time.Hour)
	second := Node(in)
	a, _ := first.Marshal()
	b, _ := second.Marshal()
	if string(a) != string(b) {
		t.Error("an hour in which nothing happened changes the status")
	}
	in.Old, in.Pressure.Memory = second, true
	third := Node(in)
	if c := third.Conditions[0]; c.Status != corev1.ConditionTrue || !c.LastTransitionTime.Time.Equal(in.Now) || !third.Conditions[1].LastTransitionTime.Time.Equal(t0) {
		t.Errorf("%+v", third.Conditions)
	}
}

func TestLook(t *testing.T) {
	m := Look(t.TempDir())
	if m.CPUs == 0 || m.MemoryBytes == 0 || m.DiskBytes == 0 || m.Kernel == "" || m.BootID == "" || m.SystemUUID == "" && m.MachineID != "" {
		t.Errorf("%+v", m)
	}
}

// TestSitesCondition: only a node that has to do with sites says something of them, and takes back what it said.
func TestSitesCondition(t *testing.T) {
	at := func(in NodeInput, site string, others ...string) (corev1.NodeStatus, string) {
		in.Site, in.OtherSites = site, others
		s := Node(in)
		for _, c := range s.Conditions {
			if c.Type == SitesConnected {
				return s, string(c.Status) + " " + c.Reason + ": " + c.Message
			}
		}
		return s, ""
	}
	in := nodeInput()
	if _, got := at(in, ""); got != "" {
		t.Errorf("without sites: %s", got)
	}
	var got string
	const want = "False TunnelNotEncrypted: pods of this node do not reach those of other sites, because the tunnel is not encrypted: (nodes without a site), farm; if the path between the sites is safe, start the server with --across-sites"
	if in.Old, got = at(in, "home", "", "farm"); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	if _, got = at(in, ""); got != "True AllSitesConnected: pods of this node reach all others" {
		t.Errorf("afterwards: %s", got)
	}
}
