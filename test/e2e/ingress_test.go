package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

const sites = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - name: nginx
        image: %[2]s
        readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
        lifecycle: {preStop: {exec: {command: [sleep, "2"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: web, port: 8000, targetPort: 80}]
`

// besides is what has a port of the boards that no Ingress wants.
const besides = `
apiVersion: v1
kind: Service
metadata: {name: beside}
spec:
  type: LoadBalancer
  selector: {app: one}
  ports: [{port: 7000, targetPort: 80}]
`

const routes = `
apiVersion: v1
kind: Secret
metadata: {name: cert}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: routes}
spec:
  tls: [{hosts: [secure.example], secretName: cert}]
  rules:
  - host: plain.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 8000}}}}]}
  - host: secure.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: one, port: {name: web}}}}]}
`

// TestIngress: an Ingress without a class is served at every host's ports 80 and 443, without a failed request while its
// Deployment is rolled and while agents are killed; a new certificate is used as soon as the Secret has it.
func TestIngress(t *testing.T) {
	c := start(t, 2, hosts.ClusterOptions{Images: []string{image("nginx"), image("nginx-new")}})
	c.apply(fmt.Sprintf(sites, "one", "nginx:1.7.9"))
	c.apply(besides)
	first := c.certificate("first")
	c.eventually(90*time.Second, "the Ingress tells where it is served", func() error {
		if n := strings.Fields(c.kubectl("get", "ingress", "routes", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")); len(n) != 2 {
			return fmt.Errorf("at %v", n)
		}
		for i := range c.Hosts {
			if _, err := c.visit(i, "http", "plain.example", nil); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := c.visit(0, "http", "other.example", nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a host of nobody's: %v", err)
	}
	if _, err := c.visit(0, "http", "secure.example", nil); err == nil || !strings.Contains(err.Error(), "308 https://secure.example/") {
		t.Errorf("a host with TLS, without: %v", err)
	}
	c.eventually(10*time.Second, "TLS by the Secret", func() error { return c.visitSecurely(1, first) })
	t.Run("without root", c.ingressHasNoRights)
	t.Run("no failed request", func(t *testing.T) { c.ingressUnderLoad(t, first) })
	second := c.certificate("second")
	c.eventually(10*time.Second, "the new certificate is used", func() error { return c.visitSecurely(1, second) })
	if got := c.kubectl("get", "service", "beside", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"); len(strings.Fields(got)) != 2 {
		t.Errorf("a load balancer beside the Ingress is at %q", got)
	}
	if got := c.kubectl("get", "events", "--field-selector", "reason=NodesLeftOut"); strings.Contains(got, "beside") {
		t.Errorf("it was taken from its boards:\n%s", got)
	}
	c.kubectl("delete", "ingress", "routes")
	c.eventually(10*time.Second, "nothing is left running", func() error {
		if out, err := c.Hosts[0].Run(c.ctx, "sh", "-c", "grep -lx bramble-ingress /proc/[0-9]*/comm || true"); err != nil || out != "" {
			return fmt.Errorf("%s %w", out, errors.Join(err))
		}
		return nil
	})
}

// certificate makes one for secure.example, puts it where the Ingress finds it, and returns who trusts it.
func (c *cluster) certificate(name string) *x509.CertPool {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	cert := x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"secure.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, &key.PublicKey, key)
	if err != nil {
		c.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	text := func(kind string, b []byte) (pemText []byte, encoded string) {
		pemText = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})
		return pemText, base64.StdEncoding.EncodeToString(pemText)
	}
	public, crt := text("CERTIFICATE", der)
	_, secret := text("PRIVATE KEY", private)
	c.apply(fmt.Sprintf(routes, crt, secret))
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(public)
	return pool
}

// visit asks a host of the lab for a page of a site, on a connection of its own. Anything but 200 is an error.
func (c *cluster) visit(i int, scheme, site string, roots *x509.CertPool) (string, error) {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, _ := net.SplitHostPort(address)
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, net.JoinHostPort(c.Hosts[i].IP.String(), port))
	}
	client := http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Get(scheme + "://" + site + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%d %s %.80s", resp.StatusCode, resp.Header.Get("Location"), body)
	}
	return resp.Proto + " " + string(body), err
}

func (c *cluster) visitSecurely(i int, roots *x509.CertPool) error {
	got, err := c.visit(i, "https", "secure.example", roots)
	if err == nil && !strings.HasPrefix(got, "HTTP/2") {
		err = fmt.Errorf("by %.8s", got)
	}
	return err
}

func (c *cluster) ingressHasNoRights(t *testing.T) {
	out, err := c.Hosts[0].Run(c.ctx, "sh", "-c", `for p in $(grep -lx bramble-ingress /proc/[0-9]*/comm); do cat ${p%comm}status; done`)
	if err != nil || !strings.Contains(out, "Uid:\t65534\t65534\t65534\t65534") || !strings.Contains(out, "CapEff:\t0000000000000000") {
		t.Errorf("the process runs as:\n%s%v", out, err)
	}
}

// ingressUnderLoad rolls the Deployment and kills an agent while both hosts are asked all the time.
func (c *cluster) ingressUnderLoad(t *testing.T, roots *x509.CertPool) {
	ctx, stop := context.WithCancel(c.ctx)
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent, failed := 0, []string(nil)
	for i := range c.Hosts {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := c.visit(i, "http", "plain.example", nil)
				_, secure := c.visit(i, "https", "secure.example", roots)
				mu.Lock()
				sent += 2
				if err := errors.Join(err, secure); err != nil {
					failed = append(failed, err.Error())
				}
				mu.Unlock()
			}
		})
	}
	c.kubectl("set", "image", "deployment/one", "nginx=nginx:1.9.1")
	c.kubectl("rollout", "status", "deployment", "one", "--timeout=90s")
	if err := c.Agents[1].Kill(); err != nil {
		t.Error(err)
	}
	time.Sleep(500 * time.Millisecond) // the process answers alone
	if err := c.StartAgent(1); err != nil {
		t.Error(err)
	}
	c.eventually(30*time.Second, "the agent finds its process again", func() error {
		if tail := c.Agents[1].Tail(40); !strings.Contains(tail, "the ingress process was found as it was left") {
			return errors.New(tail)
		}
		return nil
	})
	stop()
	wg.Wait()
	t.Logf("%d requests, %d failed", sent, len(failed))
	if len(failed) > 0 || sent < 50 {
		t.Errorf("failed: %.600s", strings.Join(failed, "\n"))
	}
}
