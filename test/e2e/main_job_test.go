package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/test/hosts"
)

// The course's Deployment, unchanged, over three hosts: spread, reached, scaled, rolled forward and back, healed.
func TestMainJob(t *testing.T) {
	c := start(t, 3, hosts.ClusterOptions{})
	c.kubectl("apply", "-f", manifest("01-deployment.yaml"))
	pods := c.ready("app=nginx", 3, 90*time.Second)
	if n := nodes(pods); len(n) != 3 {
		t.Errorf("three pods on %d hosts: %v", len(n), n)
	}
	t.Run("pod to pod", func(t *testing.T) { c.podToPod(t, pods) })
	t.Run("service by name", func(t *testing.T) { c.serviceByName(t, pods) })
	t.Run("environment and API", func(t *testing.T) { c.environment(t) })
	t.Run("scale", func(t *testing.T) { c.scale(t) })
	t.Run("rollback", func(t *testing.T) { c.rollback(t) })
	t.Run("killed container", func(t *testing.T) { c.killedContainer(t) })
	t.Run("back-off", func(t *testing.T) { c.backOff(t) })
	t.Run("delete", func(t *testing.T) {
		c.kubectl("delete", "deployment", "nginx-deployment")
		c.ready("app=nginx", 0, time.Minute)
	})
}

// exec runs a command in a pod. (No wget -T there: Debian's busybox crashes with it; timeout does the same.)
func (c *cluster) exec(pod string, argv ...string) (string, error) {
	return c.Kubectl(c.ctx, append([]string{"exec", pod, "--"}, argv...)...)
}

func (c *cluster) podToPod(t *testing.T, pods []corev1.Pod) {
	for _, from := range pods {
		for _, to := range pods {
			out, err := c.exec(from.Name, "timeout", "5", "wget", "-qO-", "http://"+to.Status.PodIP+"/")
			if err != nil || !strings.Contains(out, "Welcome to nginx!") {
				t.Errorf("from %s (%s) to %s (%s): %v", from.Name, from.Spec.NodeName, to.Name, to.Spec.NodeName, err)
			}
		}
	}
}

func (c *cluster) serviceByName(t *testing.T, pods []corev1.Pod) {
	c.kubectl("expose", "deployment", "nginx-deployment", "--port=80", "--type=NodePort")
	for _, from := range pods {
		for _, name := range []string{"nginx-deployment", "nginx-deployment.default", "nginx-deployment.default.svc.cluster.local"} {
			c.eventually(20*time.Second, fmt.Sprintf("%s from %s", name, from.Spec.NodeName), func() error {
				_, err := c.exec(from.Name, "timeout", "5", "wget", "-qO-", "http://"+name+"/")
				return err
			})
		}
	}
	port := c.kubectl("get", "service", "nginx-deployment", "-o", "jsonpath={.spec.ports[0].nodePort}")
	for _, h := range c.Hosts {
		c.eventually(20*time.Second, "the NodePort of "+h.Name, func() error {
			_, err := c.Hosts[0].Run(c.ctx, "busybox", "timeout", "5", "wget", "-qO-", "http://"+h.IP.String()+":"+port+"/")
			return err
		})
	}
}

// environment: what a pod started after the Service finds in its environment, and the API by name with its token.
func (c *cluster) environment(t *testing.T) {
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: curious, labels: {app: curious}}
spec:
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "env; sleep 1000000"]
`)
	c.ready("app=curious", 1, time.Minute)
	log := c.kubectl("logs", "curious")
	for _, want := range []string{"NGINX_DEPLOYMENT_SERVICE_HOST=", "NGINX_DEPLOYMENT_SERVICE_PORT=80", "KUBERNETES_SERVICE_HOST="} {
		if !strings.Contains(log, want) {
			t.Errorf("the environment lacks %s:\n%s", want, log)
		}
	}
	// busybox knows no TLS that the API accepts: that the API says so is proof enough that the pod reaches it.
	out, err := c.exec("curious", "sh", "-c", "wget -S -O- http://kubernetes.default.svc:443/version 2>&1 || true")
	if err != nil || !strings.Contains(out, "400 Bad Request") {
		t.Errorf("kubernetes.default from a pod: %v %s", err, out)
	}
	c.kubectl("delete", "pod", "curious", "--grace-period=0", "--force")
}

func (c *cluster) scale(t *testing.T) {
	c.kubectl("scale", "deployment", "nginx-deployment", "--replicas=10")
	pods := c.ready("app=nginx", 10, 2*time.Minute)
	for node, n := range nodes(pods) {
		if n < 2 || n > 5 {
			t.Errorf("%d of 10 pods on %s", n, node)
		}
	}
	addresses := map[string]string{}
	for _, p := range pods {
		if other, twice := addresses[p.Status.PodIP]; twice {
			t.Errorf("%s and %s have the address %s", p.Name, other, p.Status.PodIP)
		}
		addresses[p.Status.PodIP] = p.Name
	}
	c.kubectl("scale", "deployment", "nginx-deployment", "--replicas=1")
	c.ready("app=nginx", 1, 90*time.Second)
}

// served is the image tag that answers through the Service.
func (c *cluster) served() (string, error) {
	ip, err := c.Kubectl(c.ctx, "get", "service", "nginx-deployment", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return "", err
	}
	out, err := c.Hosts[2].Run(c.ctx, "sh", "-c", "timeout 5 busybox wget -S -qO /dev/null http://"+ip+"/ 2>&1")
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(out, "\n") {
		if _, tag, ok := strings.Cut(line, "X-Image: "); ok {
			return strings.TrimSpace(tag), nil
		}
	}
	return "", fmt.Errorf("no X-Image header: %s", out)
}

func (c *cluster) serves(want string) {
	c.t.Helper()
	c.eventually(20*time.Second, "the Service serves "+want, func() error {
		got, err := c.served()
		if err == nil && got != want {
			err = fmt.Errorf("it serves %s", got)
		}
		return err
	})
}

func (c *cluster) rollback(t *testing.T) {
	c.serves("nginx:1.7.9")
	c.kubectl("set", "image", "deployment/nginx-deployment", "nginx=nginx:1.9.1")
	c.kubectl("rollout", "status", "deployment/nginx-deployment", "--timeout=90s")
	c.serves("nginx:1.9.1")
	c.kubectl("rollout", "undo", "deployment/nginx-deployment")
	c.kubectl("rollout", "status", "deployment/nginx-deployment", "--timeout=90s")
	c.serves("nginx:1.7.9")
	if n := strings.Count(c.kubectl("rollout", "history", "deployment/nginx-deployment"), "\n"); n < 2 {
		t.Errorf("the history has %d lines", n)
	}
}

// killedContainer: nginx is told to end; the same pod starts it again, with the log of the first run kept.
func (c *cluster) killedContainer(t *testing.T) {
	pod := c.ready("app=nginx", 1, time.Minute)[0]
	_, _ = c.exec(pod.Name, "sh", "-c", "kill 1") // the exec may die with it
	c.eventually(time.Minute, "the container is started again", func() error {
		pods, err := c.listPods("app=nginx")
		if err != nil {
			return err
		}
		if restarts(pods) != 1 || len(pods) != 1 || !isReady(pods[0]) || pods[0].UID != pod.UID {
			return fmt.Errorf("%d pods, %d restarts", len(pods), restarts(pods))
		}
		return nil
	})
	if log := c.kubectl("logs", "--previous", pod.Name); !strings.Contains(log, "signal") && log == "" {
		t.Errorf("the log of the first run is empty")
	}
}

// backOff: a container that always fails is started less and less often (10 s, 20 s, ...) and says so.
func (c *cluster) backOff(t *testing.T) {
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: crasher, labels: {app: crasher}}
spec:
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "date +%s; exit 3"]
`)
	c.eventually(2*time.Minute, "CrashLoopBackOff", func() error {
		pods, err := c.listPods("app=crasher")
		if err != nil {
			return err
		}
		if len(pods) != 1 || len(pods[0].Status.ContainerStatuses) != 1 {
			return fmt.Errorf("%d pods", len(pods))
		}
		s := pods[0].Status.ContainerStatuses[0]
		last := s.LastTerminationState.Terminated
		if s.RestartCount < 2 || s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || last == nil || last.ExitCode != 3 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
	c.kubectl("delete", "pod", "crasher", "--grace-period=0", "--force")
}
