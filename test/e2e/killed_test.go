package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"bramble.dev/test/hosts"
)

// Server and agents are killed at random points while things are deployed. What was acknowledged is there, no
// revision was given out twice, and no container that was healthy was started again.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	c := start(t, 3, hosts.ClusterOptions{})
	c.kubectl("apply", "-f", manifest("01-deployment.yaml"))
	before := containers(c.ready("app=nginx", 3, 90*time.Second))

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWriters(t, c.Kubeconfig)
	ctx, stop := context.WithCancel(c.ctx)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { w.write(ctx, i) })
	}
	for round := range 6 {
		time.Sleep(time.Duration(300+random.IntN(1700)) * time.Millisecond)
		c.kubectl("scale", "deployment", "nginx-deployment", fmt.Sprintf("--replicas=%d", 4+round%3))
		time.Sleep(time.Duration(random.IntN(900)) * time.Millisecond)
		c.killSomething(random)
	}
	stop()
	wg.Wait()

	c.kubectl("scale", "deployment", "nginx-deployment", "--replicas=6")
	now := c.ready("app=nginx", 6, 3*time.Minute)
	if n := restarts(now); n != 0 {
		t.Errorf("%d restarts of healthy containers", n)
	}
	after := containers(now)
	for name, id := range before {
		if got, there := after[name]; there && got != id {
			t.Errorf("the container of %s was replaced: %s, before %s", name, got, id)
		}
	}
	w.verify(t)
}

// containers: pod name -> id of its first container.
func containers(pods []corev1.Pod) map[string]string {
	m := map[string]string{}
	for _, p := range pods {
		m[p.Name] = p.Status.ContainerStatuses[0].ContainerID
	}
	return m
}

// killSomething kills the server or one of the agents, and starts it again.
func (c *cluster) killSomething(random *rand.Rand) {
	c.t.Helper()
	i := random.IntN(len(c.Agents) + 1)
	if i == len(c.Agents) {
		if err := c.Server.Kill(); err != nil {
			c.t.Fatal(err)
		}
		if err := c.StartServer(c.ctx); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	if err := c.Agents[i].Kill(); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
	if err := c.StartAgent(i); err != nil {
		c.t.Fatal(err)
	}
}

// writers create ConfigMaps and remember what was acknowledged.
type writers struct {
	client kubernetes.Interface

	mu        sync.Mutex
	acked     map[string]string // name -> revision
	revisions map[string]string // revision -> name
	twice     []string
}

func newWriters(t *testing.T, kubeconfig string) *writers {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout = 5 * time.Second
	config.RateLimiter = nil
	config.QPS = -1
	return &writers{client: clientFor(t, config), acked: map[string]string{}, revisions: map[string]string{}}
}

func clientFor(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (w *writers) write(ctx context.Context, writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("written-%d-%d", writer, n)
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": strconv.Itoa(n)}}
		// Not ctx: a request that is under way when the test has enough is still answered, or not, by the server.
		made, err := w.client.CoreV1().ConfigMaps("default").Create(context.Background(), cm, metav1.CreateOptions{})
		if err != nil {
			time.Sleep(100 * time.Millisecond) // the server is dead just now: not acknowledged
			continue
		}
		w.mu.Lock()
		w.acked[name] = made.ResourceVersion
		if other, there := w.revisions[made.ResourceVersion]; there {
			w.twice = append(w.twice, fmt.Sprintf("revision %s: %s and %s", made.ResourceVersion, other, name))
		}
		w.revisions[made.ResourceVersion] = name
		w.mu.Unlock()
		time.Sleep(5 * time.Millisecond)
	}
}

// verify: all that was acknowledged is there as it was acknowledged.
func (w *writers) verify(t *testing.T) {
	t.Helper()
	list, err := w.client.CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, cm := range list.Items {
		there[cm.Name] = cm.ResourceVersion
	}
	lost := 0
	for name, revision := range w.acked {
		if there[name] != revision {
			lost++
			t.Errorf("%s was acknowledged at revision %s and is now %q", name, revision, there[name])
		}
	}
	for _, s := range w.twice {
		t.Error("handed out twice:", s)
	}
	t.Logf("%d writes acknowledged, %d of them lost", len(w.acked), lost)
	if len(w.acked) < 100 {
		t.Errorf("only %d writes were acknowledged: the test proved little", len(w.acked))
	}
}

// A container ends with 37 while the agent is dead: reported once, with the time at which it ended, its log complete.
func TestExitWhileTheAgentIsDead(t *testing.T) {
	c := start(t, 1, hosts.ClusterOptions{Images: []string{image("busybox")}})
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: mortal, labels: {app: mortal}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "i=1; while [ $i -le 6000 ]; do echo line $i; i=$((i+1)); [ $((i % 1000)) -ne 0 ] || sleep 1; done; date +%s >/dev/termination-log; exit 37"]
`)
	c.ready("app=mortal", 1, time.Minute)
	if err := c.Agents[0].Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(12 * time.Second)
	if err := c.StartAgent(0); err != nil {
		t.Fatal(err)
	}
	var end *corev1.ContainerStateTerminated
	c.eventually(time.Minute, "the end is reported", func() error {
		pods, err := c.listPods("app=mortal")
		if err != nil {
			return err
		}
		if len(pods) != 1 || len(pods[0].Status.ContainerStatuses) != 1 || pods[0].Status.ContainerStatuses[0].State.Terminated == nil {
			return fmt.Errorf("%d pods, not terminated", len(pods))
		}
		end = pods[0].Status.ContainerStatuses[0].State.Terminated
		if phase := pods[0].Status.Phase; phase != corev1.PodFailed {
			return fmt.Errorf("phase %s", phase)
		}
		return nil
	})
	if end.ExitCode != 37 {
		t.Errorf("exit code %d", end.ExitCode)
	}
	ended, err := strconv.ParseInt(strings.TrimSpace(end.Message), 10, 64)
	if err != nil {
		t.Fatalf("termination message %q: %v", end.Message, err)
	}
	if d := end.FinishedAt.Unix() - ended; d < 0 || d > 2 {
		t.Errorf("finishedAt is %d s away from when the container ended", d)
	}
	lines := strings.Split(c.kubectl("logs", "mortal"), "\n")
	if len(lines) != 6000 {
		t.Errorf("%d log lines, want 6000", len(lines))
	}
	for i, line := range lines {
		if line != "line "+strconv.Itoa(i+1) {
			t.Fatalf("log line %d is %q", i+1, line)
		}
	}
	if pods := c.pods("app=mortal"); restarts(pods) != 0 {
		t.Errorf("%d restarts of a pod that says Never", restarts(pods))
	}
}

// An agent that is stopped, replaced and killed finds its containers again: the same ones, with their logs.
func TestAgentRestartKeepsContainers(t *testing.T) {
	c := start(t, 1, hosts.ClusterOptions{Images: []string{image("busybox")}})
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: steady, labels: {app: steady}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 50m, memory: 32Mi}}
`)
	before := containers(c.ready("app=steady", 1, time.Minute))
	c.resize(t, "60m", "40Mi")
	for name, end := range map[string]func() error{
		"SIGTERM": func() error { return c.Agents[0].Stop(20 * time.Second) },
		"SIGKILL": func() error { return c.Agents[0].Kill() },
	} {
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "SIGKILL" {
			c.askSize("90m", "50Mi")
		}
		time.Sleep(3 * time.Second)
		if err := c.StartAgent(0); err != nil {
			t.Fatal(err)
		}
		c.eventually(time.Minute, "exec works after "+name, func() error {
			_, err := c.exec("steady", "true")
			return err
		})
	}
	c.isSized(t, "90m", "50Mi") // it was asked for while the agent was dead
	c.resize(t, "20m", "30Mi")
	now := c.ready("app=steady", 1, time.Minute)
	if after := containers(now); after["steady"] != before["steady"] || restarts(now) != 0 {
		t.Errorf("container %s, before %s; %d restarts", after["steady"], before["steady"], restarts(now))
	}
	for i, line := range strings.Split(c.kubectl("logs", "steady"), "\n") {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("log line %d is %q: lines were lost while the agent was dead", i+1, line)
		}
	}
}

// resize gives the pod another size, and looks at its cgroup from within.
func (c *cluster) resize(t *testing.T, cpu, memory string) {
	c.askSize(cpu, memory)
	c.isSized(t, cpu, memory)
}

func (c *cluster) askSize(cpu, memory string) {
	list := fmt.Sprintf(`{"cpu":%q,"memory":%q}`, cpu, memory)
	c.kubectl("patch", "pod", "steady", "--subresource=resize", "-p", `{"spec":{"containers":[{"name":"main","resources":{"requests":`+list+`,"limits":`+list+`}}]}}`)
}

func (c *cluster) isSized(t *testing.T, cpu, memory string) {
	amount := resource.MustParse(memory)
	milli := resource.MustParse(cpu)
	want := fmt.Sprintf("%d %d", milli.MilliValue()*100, amount.Value())
	c.eventually(time.Minute, "the cgroup has "+cpu+" and "+memory, func() error {
		out, err := c.exec("steady", "sh", "-c", `cd /sys/fs/cgroup; if [ -e cpu.max ]; then cut -d" " -f1 cpu.max; cat memory.max; else cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes; fi`)
		if got := strings.Join(strings.Fields(out), " "); err != nil || got != want {
			return fmt.Errorf("it has %s, should have %s (%v)", got, want, err)
		}
		return nil
	})
	c.eventually(time.Minute, "the status says so", func() error {
		p := c.pods("app=steady")[0]
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodResizePending || condition.Type == corev1.PodResizeInProgress {
				return fmt.Errorf("%+v", condition)
			}
		}
		has := p.Status.ContainerStatuses[0]
		if has.Resources.Limits.Memory().Cmp(amount) != 0 || has.Resources.Limits.Cpu().Cmp(milli) != 0 || has.AllocatedResources.Memory().Cmp(amount) != 0 || p.Status.ObservedGeneration != p.Generation {
			return fmt.Errorf("%+v, %+v", has.Resources, has.AllocatedResources)
		}
		return nil
	})
}
