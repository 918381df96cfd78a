package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// tenant is somebody who may do what they like in one namespace, within a quota.
type tenant struct {
	*cluster
	name string // also of the namespace
	user string // as messages name them
	auth []string
}

const tenancy = `
apiVersion: v1
kind: Namespace
metadata: {name: NAME, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: owner, namespace: NAME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [SUBJECT]
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: share, namespace: NAME}
spec: {hard: {pods: "4", requests.cpu: "1", limits.memory: 512Mi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: sizes, namespace: NAME}
spec: {limits: [{type: Container, default: {cpu: 200m, memory: 64Mi}, defaultRequest: {cpu: 100m, memory: 16Mi}, max: {cpu: 500m, memory: 128Mi}}]}
`

// Two tenants, one with a certificate and one with a token, share the boards: each does what it likes in its namespace, within its
// share, and is refused the other's, in upstream's words and by the network.
func TestTenants(t *testing.T) {
	c := start(t, 2, hosts.ClusterOptions{Images: []string{image("nginx"), image("busybox")}})
	red, blue := c.withCertificate(t, "red"), c.withToken("blue")
	for _, who := range []tenant{red, blue} {
		who.must(t, web(who.name), "apply", "-f", "-")
		who.eventually(90*time.Second, who.name+"'s pods run", func() error {
			out, err := who.kubectlAs("", "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}")
			if err == nil && out != "2" {
				err = fmt.Errorf("%q of 2 are ready", out)
			}
			return err
		})
	}
	t.Run("own", func(t *testing.T) { red.ownHouse(t); blue.ownHouse(t) })
	t.Run("the other's", func(t *testing.T) { red.refusedAt(t, blue); blue.refusedAt(t, red) })
	t.Run("share", func(t *testing.T) { red.withinShare(t) })
	t.Run("network", func(t *testing.T) { red.closesItsDoors(t, blue) })
	t.Run("no way up", func(t *testing.T) { blue.noWayUp(t) })
	t.Run("autoscaler", func(t *testing.T) { red.autoscales(t) })
}

// web serves.
func web(name string) string {
	return strings.ReplaceAll(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tenant: NAME}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tenant: NAME}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: "nginx:1.7.9", imagePullPolicy: IfNotPresent}]
`, "NAME", name)
}

// kubectlAs runs kubectl as the tenant, in its namespace unless the arguments name another.
func (w tenant) kubectlAs(stdin string, args ...string) (string, error) {
	all := append([]string{"--kubeconfig", os.DevNull, "--server", w.URL(), "--namespace", w.name}, w.auth...)
	return w.KubectlWith(w.ctx, w.Program("kubectl"), stdin, append(all, args...)...)
}

func (w tenant) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := w.kubectlAs(stdin, args...)
	if err != nil {
		t.Fatalf("%s may not: %v", w.name, err)
	}
	return out
}

func (w tenant) refused(t *testing.T, why, stdin string, args ...string) {
	t.Helper()
	out, err := w.kubectlAs(stdin, args...)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: kubectl %s: %v %s\nwant: %s", w.name, strings.Join(args, " "), err, out, why)
	}
}

func (c *cluster) tenancy(name, subject string) {
	c.apply(strings.NewReplacer("NAME", name, "SUBJECT", subject).Replace(tenancy))
}

// withCertificate makes a tenant whose certificate the cluster's authority signs.
func (c *cluster) withCertificate(t *testing.T, name string) tenant {
	c.tenancy(name, "{apiGroup: rbac.authorization.k8s.io, kind: User, name: "+name+"}")
	pki := c.Hosts[0].Data("server/pki")
	ca, err := tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: []string{"tenants"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return tenant{c, name, name, []string{"--certificate-authority", filepath.Join(pki, "ca.crt"), "--client-certificate", file("tls.crt", "CERTIFICATE", der), "--client-key", file("tls.key", "PRIVATE KEY", private)}}
}

// withToken makes a tenant who is a service account of its namespace.
func (c *cluster) withToken(name string) tenant {
	c.tenancy(name, "{kind: ServiceAccount, name: owner, namespace: "+name+"}")
	c.kubectl("create", "serviceaccount", "owner", "-n", name)
	token := c.kubectl("create", "token", "owner", "-n", name)
	return tenant{c, name, "system:serviceaccount:" + name + ":owner", []string{"--certificate-authority", filepath.Join(c.Hosts[0].Data("server/pki"), "ca.crt"), "--token", token}}
}

// ownHouse: all that an owner does there.
func (w tenant) ownHouse(t *testing.T) {
	for _, step := range []struct {
		args string
		want string
	}{
		{"get pods -l app=web", "Running"},
		{"get pods -l app=web -o jsonpath={.items[0].spec.containers[0].resources}", `"requests":{"cpu":"100m","memory":"16Mi"}`},
		{"logs -l app=web --tail=1", ""},
		{"exec deployment/web -- hostname", "web-"},
		{"top pod", "web-"},
		{"describe quota share", "requests.cpu 200m 1"},
		{"create configmap colour --from-literal=it=" + w.name, "created"},
		{"create role reader --verb=get --resource=configmaps", "created"},
	} {
		if out := w.must(t, "", strings.Fields(step.args)...); !strings.Contains(strings.Join(strings.Fields(out), " "), step.want) {
			t.Errorf("%s: kubectl %s does not say %q:\n%s", w.name, step.args, step.want, out)
		}
	}
}

// refusedAt: the other's house, and the cluster's.
func (w tenant) refusedAt(t *testing.T, other tenant) {
	cannot := func(verb, resource, group, where string) string {
		return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", w.user, verb, resource, group, where)
	}
	there := fmt.Sprintf("in the namespace %q", other.name)
	for _, step := range []struct{ args, why string }{
		{"get pods -n " + other.name, "pods is forbidden: " + cannot("list", "pods", "", there)},
		{"get configmap colour -n " + other.name, `configmaps "colour" is forbidden: ` + cannot("get", "configmaps", "", there)},
		{"get secrets -n " + other.name, "secrets is forbidden: " + cannot("list", "secrets", "", there)},
		{"delete deployment web -n " + other.name, `deployments.apps "web" is forbidden: ` + cannot("delete", "deployments", "apps", there)},
		{"top pod -n " + other.name, "pods.metrics.k8s.io is forbidden: " + cannot("list", "pods", "metrics.k8s.io", there)},
		{"create configmap mine --from-literal=a=b -n " + other.name, "configmaps is forbidden: " + cannot("create", "configmaps", "", there)},
		{"get pods -A", "pods is forbidden: " + cannot("list", "pods", "", "at the cluster scope")},
		{"get nodes", "nodes is forbidden: " + cannot("list", "nodes", "", "at the cluster scope")},
		{"create namespace mine", "namespaces is forbidden: " + cannot("create", "namespaces", "", "at the cluster scope")},
	} {
		w.refused(t, step.why, "", strings.Fields(step.args)...)
	}
}

func (w tenant) pod(name, rest string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, \"1000000\"]%s}]}", name, rest)
}

// withinShare: more than a share, or a larger container than is allowed, is refused and told.
func (w tenant) withinShare(t *testing.T) {
	w.refused(t, `pods "large" is forbidden: maximum cpu usage per Container is 500m, but limit is 2`, w.pod("large", `, resources: {limits: {cpu: "2"}}`), "create", "-f", "-")
	w.must(t, w.pod("third", ""), "create", "-f", "-")
	w.must(t, w.pod("fourth", ""), "create", "-f", "-")
	w.refused(t, `pods "fifth" is forbidden: exceeded quota: share, requested: pods=1, used: pods=4, limited: pods=4`, w.pod("fifth", ""), "create", "-f", "-")
	w.must(t, "", "scale", "deployment", "web", "--replicas=3")
	w.eventually(20*time.Second, "the Deployment says that its share is used up", func() error {
		out, err := w.kubectlAs("", "get", "deployment", "web", "-o", `jsonpath={.status.conditions[?(@.type=="ReplicaFailure")].message}`)
		if err == nil && !strings.Contains(out, "exceeded quota: share, requested: pods=1, used: pods=4, limited: pods=4") {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	w.must(t, "", "scale", "deployment", "web", "--replicas=2")
	w.must(t, "", "delete", "pod", "third", "fourth")
}

// closesItsDoors: a NetworkPolicy of one tenant lets nobody else's pods in.
func (w tenant) closesItsDoors(t *testing.T, other tenant) {
	address := w.must(t, "", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
	fetch := func(who tenant) error {
		_, err := who.kubectlAs("", "exec", "deployment/web", "--", "timeout", "3", "wget", "-qO-", "http://"+address+"/")
		return err
	}
	for _, who := range []tenant{w, other} {
		w.eventually(20*time.Second, who.name+" reaches "+w.name, func() error { return fetch(who) })
	}
	w.must(t, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: own}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}
`, "apply", "-f", "-")
	w.eventually(20*time.Second, other.name+" is kept out of "+w.name, func() error {
		if fetch(other) == nil {
			return fmt.Errorf("%s still reaches %s", other.name, w.name)
		}
		return nil
	})
	w.eventually(20*time.Second, w.name+" still reaches itself", func() error { return fetch(w) })
	other.refused(t, `networkpolicies.networking.k8s.io "own" is forbidden`, "", "delete", "networkpolicy", "own", "-n", w.name)
}

// noWayUp: nobody gives themselves more than they have.
func (w tenant) noWayUp(t *testing.T) {
	w.refused(t, `pods "root" is forbidden: violates PodSecurity "baseline:latest": privileged (container "main" must not set securityContext.privileged=true)`,
		w.pod("root", ", securityContext: {privileged: true}"), "create", "-f", "-")
	w.refused(t, fmt.Sprintf(`cannot patch resource "resourcequotas" in API group "" in the namespace %q`, w.name), "",
		"patch", "resourcequota", "share", "-p", `{"spec":{"hard":{"pods":"100"}}}`)
	w.refused(t, "is attempting to grant RBAC permissions not currently held", "",
		"create", "rolebinding", "more", "--clusterrole=cluster-admin", "--serviceaccount="+w.name+":owner")
}

// autoscales: what the pods use, which top prints, makes the tenant's Deployment larger.
func (w tenant) autoscales(t *testing.T) {
	w.must(t, strings.NewReplacer("web", "busy", `"nginx:1.7.9"`, "busybox", "IfNotPresent}", `IfNotPresent, command: [sh, -c, "while :; do :; done"]}`).Replace(web(w.name)), "apply", "-f", "-")
	w.must(t, "", "scale", "deployment", "busy", "--replicas=1")
	w.must(t, "", "rollout", "status", "deployment", "busy", "--timeout=60s")
	w.must(t, "", "autoscale", "deployment", "busy", "--max=2", "--cpu=50%")
	w.eventually(time.Minute, "a busy Deployment grows", func() error {
		out, err := w.kubectlAs("", "describe", "hpa", "busy")
		if err == nil && !strings.Contains(out, "New size: 2; reason: cpu resource utilization (percentage of request) above target") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	w.must(t, "", "rollout", "status", "deployment", "busy", "--timeout=60s")
	out := w.must(t, "", "top", "pod", "-l", "app=busy", "--no-headers")
	if busy := strings.Fields(out); len(busy) < 2 || busy[1] == "0m" {
		t.Errorf("a busy pod uses\n%s", out)
	}
}
