package clients

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestKubectl: what kubectl does at the API alone, the built one and Debian's 1.20, where that has the command. What needs pods that run
// is in test/e2e.
func TestKubectl(t *testing.T) {
	old := os.Getenv("BRAMBLE_KUBECTL_OLD")
	if old == "" {
		t.Fatal("BRAMBLE_KUBECTL_OLD is not set: scripts/test unpacks Debian's kubernetes-client and sets it")
	}
	s := start(t)
	for _, k := range []struct {
		name, program string
		old           bool
	}{{"new", "../../bin/kubectl", false}, {"old", old, true}} {
		t.Run(k.name, func(t *testing.T) {
			c := &kubectl{s: s, program: k.program, old: k.old, ns: s.namespace(t, "kubectl-"+k.name), dir: t.TempDir()}
			for _, part := range []struct {
				name string
				do   func(*kubectl, *testing.T)
			}{
				{"objects", (*kubectl).objects}, {"workloads", (*kubectl).workloads}, {"nodes", (*kubectl).nodes}, {"rights", (*kubectl).rights}, {"cluster", (*kubectl).cluster},
			} {
				t.Run(part.name, func(t *testing.T) { part.do(c, t) })
			}
		})
	}
}

// kubectl is one of the programs, in a namespace of its own.
type kubectl struct {
	s       *server
	program string
	old     bool
	ns, dir string
}

// try runs a command; words are split at spaces.
func (k *kubectl) try(t *testing.T, in, words string, more ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), k.program, append(append([]string{"--kubeconfig", filepath.Join(k.s.dir, "data", "kubeconfig"), "-n", k.ns, "--cache-dir", filepath.Join(k.dir, "cache")}, strings.Fields(words)...), more...)...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &out
	cmd.Env = append(os.Environ(), "HOME="+k.dir, `KUBE_EDITOR=sed -i s/two/three/`)
	err := cmd.Run()
	return out.String(), err
}

// says runs a command that ends well and prints all of these.
func (k *kubectl) says(t *testing.T, in, words string, want ...string) string {
	t.Helper()
	out, err := k.try(t, in, words)
	if err != nil {
		t.Errorf("kubectl %s: %v\n%s", words, err, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("kubectl %s does not say %q:\n%s", words, w, out)
		}
	}
	return out
}

// value is what a JSON path shows.
func (k *kubectl) value(t *testing.T, what, path string) string {
	t.Helper()
	out, err := k.try(t, "", "get "+what+" -o", "jsonpath="+path)
	if err != nil {
		t.Errorf("kubectl get %s: %v\n%s", what, err, out)
	}
	return out
}

func (k *kubectl) is(t *testing.T, what, path, want string) {
	t.Helper()
	if got := k.value(t, what, path); got != want {
		t.Errorf("%s %s is %q, want %q", what, path, got, want)
	}
}

// objects: to make, see, compare, change and remove them.
func (k *kubectl) objects(t *testing.T) {
	const m = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, labels: {app: a}}\ndata: {k: one}\n"
	changed := strings.Replace(m, "one", "two", 1)
	k.says(t, m, "apply -f -", "configmap/m created")
	k.says(t, m, "apply -f -", "configmap/m unchanged")
	out, err := k.try(t, changed, "diff -f -")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, "-  k: one") || !strings.Contains(out, "+  k: two") {
		t.Errorf("diff: %v\n%s", err, out)
	}
	k.says(t, m, "diff -f -")
	k.is(t, "configmap/m", "{.data.k}", "one")
	k.says(t, changed, "apply -f - --dry-run=server", "configmap/m configured (server dry run)")
	k.is(t, "configmap/m", "{.data.k}", "one")
	k.says(t, changed, "apply -f -", "configmap/m configured")
	k.says(t, "", "apply view-last-applied configmap/m", "k: two")
	k.says(t, "", "edit configmap/m", "configmap/m edited") // which makes three of two
	k.is(t, "configmap/m", "{.data.k}", "three")
	k.says(t, "", `patch configmap/m -p {"data":{"l":"x"}}`, "configmap/m patched")
	k.says(t, "", `patch configmap/m --type=json -p [{"op":"remove","path":"/data/l"}]`, "configmap/m patched")
	k.says(t, "", `patch configmap/m --type=merge -p {"data":{"n":"y","k":null}}`, "configmap/m patched")
	k.is(t, "configmap/m", "{.data}", `{"n":"y"}`)
	k.says(t, "", "label configmap/m tier=back", "labeled")
	if out, err := k.try(t, "", "label configmap/m tier=front"); err == nil || !strings.Contains(out, "--overwrite is false") {
		t.Errorf("label without --overwrite: %v %s", err, out)
	}
	k.says(t, "", "label configmap/m tier=front app- --overwrite")
	k.says(t, "", "annotate configmap/m example.com/a=b", "annotated")
	k.says(t, "", "get configmaps -l tier=front,!app -o name", "configmap/m")
	k.is(t, "configmap/m", `{.metadata.annotations.example\.com/a}`, "b")
	k.says(t, m, "replace -f -", "configmap/m replaced")
	k.says(t, "", "delete configmap m --wait=true", `configmap "m" deleted`)

	k.says(t, m, "apply --server-side -f -", "configmap/m serverside-applied")
	k.is(t, "configmap/m", "{.metadata.managedFields[0].operation}", "Apply")
	if out, err := k.try(t, changed, "apply --server-side --field-manager=other -f -"); err == nil || !strings.Contains(out, "conflict with \"kubectl\"") {
		t.Errorf("a second manager: %v\n%s", err, out)
	}
	k.says(t, changed, "apply --server-side --field-manager=other --force-conflicts -f -", "serverside-applied")
	k.is(t, "configmap/m", "{.data.k}", "two")

	deleted := make(chan string, 1)
	go func() {
		out, err := k.try(t, "", "wait --for=delete configmap/m --timeout=60s")
		if err != nil {
			out += err.Error()
		}
		deleted <- out
	}()
	k.says(t, "", "delete configmap m")
	if out := <-deleted; strings.Contains(out, "exit status") {
		t.Errorf("wait --for=delete: %s", out)
	}

	base := filepath.Join(k.dir, "base")
	write(t, filepath.Join(base, "m.yaml"), m)
	write(t, filepath.Join(base, "kustomization.yaml"), "resources: [m.yaml]\nnamePrefix: k-\nconfigMapGenerator:\n- name: made\n  literals: [a=b]\n")
	k.says(t, "", "kustomize "+base, "name: k-m", "name: k-made-")
	k.says(t, "", "apply -k "+base, "configmap/k-m created", "configmap/k-made-")
	k.says(t, "", "delete -k "+base, `configmap "k-m" deleted`)
	k.says(t, "", "create secret generic s --from-literal=a=b", "secret/s created")
	k.says(t, "", "create quota q --hard=configmaps=50", "resourcequota/q created")
	k.says(t, "", "describe quota q", "configmaps", "50")
	k.says(t, "", "get secret s -o go-template={{.data.a}}", "Yg==")
	k.says(t, "", "get secrets,resourcequotas", "secret/s", "resourcequota/q", "Opaque")
}

// workloads: what makes and changes them. No node is there: pods wait.
func (k *kubectl) workloads(t *testing.T) {
	k.says(t, "", "create deployment web --image=registry.example/web:1", "deployment.apps/web created")
	k.says(t, "", "run one --image=registry.example/one:1 --restart=Never --labels=app=one", "pod/one created")
	k.says(t, "", "run dry --image=registry.example/one:1 --dry-run=server -o name", "pod/dry")
	k.says(t, "", "expose deployment web --port=80 --target-port=8080", "service/web exposed")
	k.is(t, "service/web", "{.spec.ports[0].targetPort}", "8080")
	k.says(t, "", "autoscale deployment web --min=1 --max=3 --cpu-percent=50", "autoscaled")
	k.is(t, "hpa/web", "{.spec.maxReplicas}", "3")
	k.says(t, "", "delete hpa web")
	k.says(t, "", "scale deployment web --replicas=2", "scaled")
	k.says(t, "", "scale deployment web --current-replicas=2 --replicas=3", "scaled")
	k.history(t, "1 <none>")
	k.says(t, "", "set image deployment/web web=registry.example/web:2", "image updated")
	k.history(t, "2 <none>")
	k.says(t, "", "set env deployment/web A=b", "env updated")
	k.says(t, "", "set resources deployment web --requests=cpu=10m", "resource requirements updated")
	k.says(t, "", "set serviceaccount deployment web default", "serviceaccount updated")
	k.says(t, "", "set selector service web app=web,tier=x", "selector updated")
	k.is(t, "service/web", "{.spec.selector.tier}", "x")
	k.is(t, "deployment/web", "{.spec.template.spec.containers[0].env[0].value}", "b")
	k.history(t, "5 <none>")
	k.says(t, "", "rollout history deployment/web --revision=1", "registry.example/web:1")
	k.says(t, "", "rollout undo deployment/web --to-revision=1", "rolled back")
	k.is(t, "deployment/web", "{.spec.template.spec.containers[0].image}", "registry.example/web:1")
	k.says(t, "", "rollout pause deployment/web", "paused")
	k.is(t, "deployment/web", "{.spec.paused}", "true")
	k.says(t, "", "rollout resume deployment/web", "resumed")
	k.says(t, "", "rollout restart deployment/web", "restarted")
	if out, err := k.try(t, "", "rollout status deployment/web --timeout=2s"); err == nil || !strings.Contains(out, "Waiting for deployment") {
		t.Errorf("rollout status of pods that wait: %v %s", err, out)
	}
	k.says(t, "", "describe deployment web", "ScalingReplicaSet", "registry.example/web:1")
	if !k.old {
		k.says(t, "", "events --for deployment/web", "ScalingReplicaSet")
		k.says(t, "", "wait --for=jsonpath={.spec.replicas}=3 deployment/web --timeout=60s", "condition met")
	}
	k.says(t, "", "get events --field-selector reason=ScalingReplicaSet", "deployment/web")
	k.says(t, "", "get all", "deployment.apps/web", "service/web", "pod/one")
	k.says(t, "", "create job j --image=registry.example/j:1", "job.batch/j created")
	k.says(t, "", "create cronjob c --image=registry.example/j:1 --schedule=@yearly", "created")
	if !k.old { // whose own kinds end before these
		k.says(t, "", "create job by-hand --from=cronjob/c", "job.batch/by-hand created")
		k.says(t, "", "create poddisruptionbudget p --selector=app=web --min-available=1", "created")
	}
	k.says(t, "", "delete deployment,service,job,cronjob,pdb,pod --all --grace-period=0 --force", `deployment.apps "web"`)
}

// history waits until a deployment has a revision.
func (k *kubectl) history(t *testing.T, revision string) {
	t.Helper()
	var out string
	for end := time.Now().Add(time.Minute); !strings.Contains(strings.Join(strings.Fields(out), " "), revision); time.Sleep(100 * time.Millisecond) {
		out, _ = k.try(t, "", "rollout history deployment/web")
		if time.Now().After(end) {
			t.Fatalf("no revision %q:\n%s", revision, out)
		}
	}
}

// nodes: to take one out and back. It is an object alone, with a pod that nobody runs.
func (k *kubectl) nodes(t *testing.T) {
	name := "board-" + k.ns
	k.says(t, "apiVersion: v1\nkind: Node\nmetadata: {name: "+name+"}\n", "apply -f -", "created")
	k.says(t, "", "taint node "+name+" example.com/a=b:NoSchedule", "tainted")
	k.says(t, "", "cordon "+name, "cordoned")
	k.is(t, "node/"+name, "{.spec.unschedulable}", "true")
	k.says(t, "", "uncordon "+name, "uncordoned")
	k.says(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: bare}\nspec: {nodeName: "+name+", terminationGracePeriodSeconds: 0, containers: [{name: c, image: x}]}\n", "apply -f -", "created")
	if out, err := k.try(t, "", "drain "+name); err == nil || !strings.Contains(out, "use --force to override") {
		t.Errorf("drain with a pod that has no owner: %v %s", err, out)
	}
	drained := make(chan string, 1)
	go func() {
		out, err := k.try(t, "", "drain "+name+" --force --ignore-daemonsets --timeout=120s")
		if err != nil {
			out += err.Error()
		}
		drained <- out
	}()
	pods := k.s.client(t).CoreV1().Pods(k.ns)
	eventually(t, time.Minute, "the pod is evicted", func(ctx context.Context) error {
		p, err := pods.Get(ctx, "bare", metav1.GetOptions{})
		if err == nil && p.DeletionTimestamp == nil {
			err = errors.New("it is not asked to end")
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	zero := int64(0) // as the node's agent does when the pod has ended
	if err := pods.Delete(t.Context(), "bare", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if out := <-drained; !strings.Contains(out, "drained") && !strings.Contains(out, "evicted") || strings.Contains(out, "exit status") {
		t.Errorf("drain: %s", out)
	}
	k.says(t, "", "describe node "+name, "Unschedulable:      true", "example.com/a=b:NoSchedule")
	k.says(t, "", "delete node "+name, "deleted")
}

// rights: who asks, who may, and how somebody becomes known.
func (k *kubectl) rights(t *testing.T) {
	k.says(t, "", "create serviceaccount robot", "created")
	k.says(t, "", "create role reader --verb=get,list --resource=configmaps", "created")
	k.says(t, "", "create rolebinding reads --role=reader --serviceaccount="+k.ns+":robot", "created")
	as := " --as=system:serviceaccount:" + k.ns + ":robot"
	k.says(t, "", "auth can-i list configmaps"+as, "yes")
	if out, err := k.try(t, "", "auth can-i delete configmaps"+as); err == nil || !strings.HasPrefix(out, "no") {
		t.Errorf("can-i: %v %s", err, out)
	}
	k.says(t, "", "auth can-i --list"+as, "configmaps", "[get list]")
	k.says(t, "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: "+k.ns+"}\nrules: [{apiGroups: [''], resources: [configmaps], verbs: [get, list, watch]}]\n", "auth reconcile -f -", "reconciled")
	k.says(t, "", "auth can-i watch configmaps"+as, "yes")
	if !k.old {
		k.says(t, "", "auth whoami"+as, "Username", "system:serviceaccount:"+k.ns+":robot", "system:serviceaccounts")
		token := strings.TrimSpace(k.says(t, "", "create token robot --duration=10m"))
		if strings.Count(token, ".") != 2 {
			t.Errorf("create token: %s", token)
		}
		// Without the certificate that the file has: it would go before the token.
		out, err := exec.CommandContext(t.Context(), k.program, "--kubeconfig", os.DevNull, "--server", k.s.config(t).Host, "--insecure-skip-tls-verify", "--token", token, "-n", k.ns, "auth", "can-i", "get", "configmaps").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "yes") {
			t.Errorf("with the token: %v %s", err, out)
		}
	}
	for _, decision := range []struct{ verb, said, condition string }{{"approve", "approved", "Approved"}, {"deny", "denied", "Denied"}} {
		name := decision.verb + "-" + k.ns
		k.says(t, request(t, name), "create -f -", "created")
		k.says(t, "", "certificate "+decision.verb+" "+name, decision.said)
		k.is(t, "csr/"+name, "{.status.conditions[0].type}", decision.condition)
	}
	eventually(t, time.Minute, "the certificate is issued", func(context.Context) error {
		if out, err := k.try(t, "", "get csr/approve-"+k.ns+" -o", "jsonpath={.status.certificate}"); err != nil || out == "" {
			return errors.New("none yet: " + out)
		}
		return nil
	})
}

// cluster: what there is.
func (k *kubectl) cluster(t *testing.T) {
	k.says(t, "", "version", "Server Version")
	k.says(t, "", "cluster-info", "is running at")
	dump := filepath.Join(k.dir, "dump")
	k.says(t, "", "cluster-info dump --namespaces="+k.ns+" --output-directory="+dump, "Cluster info dumped to")
	for _, file := range []string{"nodes.json", filepath.Join(k.ns, "pods.json"), filepath.Join(k.ns, "events.json")} {
		if text, err := os.ReadFile(filepath.Join(dump, file)); err != nil || !bytes.Contains(text, []byte(`"kind"`)) {
			t.Errorf("the dump's %s: %v %.200s", file, err, text)
		}
	}
	k.says(t, "", "api-resources --api-group=apps", "deployments", "deploy", "true", "StatefulSet")
	k.says(t, "", "api-resources --verbs=list --namespaced -o name", "configmaps", "ingresses.networking.k8s.io")
	k.says(t, "", "api-versions", "apps/v1", "storage.k8s.io/v1")
	k.says(t, "", "explain deployment.spec.replicas", "Number of desired pods")
	k.says(t, "", "explain pod.spec.containers --recursive", "livenessProbe", "tcpSocket")
	k.says(t, "", "get --raw /readyz", "ok")
	k.says(t, "", "get namespaces -o custom-columns=N:.metadata.name --sort-by=.metadata.name", "kube-system", k.ns)
}

// request is that of a client's certificate.
func request(t *testing.T, name string) string {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key))(t)
	text := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: " + name + "}\nspec: {request: " + text + ", signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
