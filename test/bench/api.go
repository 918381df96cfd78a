package main

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	listed   = 5_000 // objects in each of two namespaces
	lists    = 20
	watchers = 500
	changes  = 100
	// restTime is how long upstream's programs, which give nothing back, are left alone before their memory is read.
	restTime = 30 * time.Second
)

// apiServer is one that is measured: ours alone, without a node, or upstream's with etcd.
type apiServer struct {
	bench      *bench
	kubeconfig string
	pids       []int
	settle     time.Duration
	only       *regexp.Regexp // of the parts
	config     *rest.Config
	client     kubernetes.Interface
}

// figures of a server, by the names of the rows.
type figures map[string]float64

// apiRow is a row of the table; its budget is a number, or so many times upstream's of the same run.
type apiRow struct {
	what, unit    string
	most          float64
	least, mostOf float64 // times upstream's
}

var apiRows = []apiRow{
	{what: "idle, resident", unit: "MiB", most: 48},
	{what: "idle, anonymous", unit: "MiB", most: 24},
	{what: "ten definitions and a webhook, resident", unit: "MiB", most: 64},
	{what: "ten definitions and a webhook, anonymous", unit: "MiB", most: 32},
	{what: "10,000 ConfigMaps of 1.5 KB, resident", unit: "MiB"},
	{what: "10,000 ConfigMaps of 1.5 KB, anonymous", unit: "MiB"},
	{what: "10,000 ConfigMaps of 1.5 KB, anonymous, more than before", unit: "MiB", most: 16},
	{what: "list of 5,000 as JSON", unit: "ms"},
	{what: "list of 5,000 as JSON, allocated", unit: "MiB"},
	{what: "list of 5,000 as JSON, allocations", unit: "thousand"},
	{what: "list of 5,000 as protobuf", unit: "ms"},
	{what: "list of 5,000 as protobuf, allocated", unit: "MiB"},
	{what: "list of 5,000 as protobuf, allocations", unit: "thousand"},
	{what: "500 watchers, anonymous, more than before", unit: "MiB"},
	{what: "a change until 500 watchers have it", unit: "ms"},
	{what: "a change for 500 watchers, CPU", unit: "ms"},
	{what: "durable creates, 1 writers", unit: "/s", least: 2},
	{what: "durable creates, 16 writers", unit: "/s", least: 3},
	{what: "CPU of each create, 1 writers", unit: "ms"},
	{what: "CPU of each create, 16 writers", unit: "ms"},
	{what: "bytes to disk of each create, 1 writers", unit: "bytes", mostOf: 1},
	{what: "bytes to disk of each create, 16 writers", unit: "bytes", mostOf: 1},
}

// api measures a server alone beside upstream's, one after the other by the same steps, and prints a table.
func api(ctx context.Context, o options) (err error) {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "bramble-bench-api-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{ctx: ctx, o: o}
	if b.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	ours, err := b.oursFigures(dir, only)
	if err != nil {
		return fmt.Errorf("bramble: %w", err)
	}
	var theirs figures
	if o.reference != "" {
		if theirs, err = b.theirFigures(filepath.Join(dir, "reference"), only); err != nil {
			return fmt.Errorf("upstream: %w", err)
		}
	}
	for _, r := range apiRows {
		if _, measured := ours[r.what]; !measured {
			continue
		}
		b.rows = append(b.rows, r.row(ours, theirs))
	}
	fmt.Print(table(b.rows))
	return nil
}

func (r apiRow) row(ours, theirs figures) row {
	mine, their := ours[r.what], theirs[r.what]
	out := row{what: r.what, measured: number(mine) + " " + r.unit, atLeast: r.least > 0}
	budget, sign := r.most, "<= "
	switch {
	case r.least > 0:
		budget, sign = r.least*their, ">= "
	case r.mostOf > 0:
		budget = r.mostOf * their
	}
	if budget > 0 {
		out.budget, out.ratio = sign+number(budget)+" "+r.unit, mine/budget
	}
	if theirs != nil {
		out.upstream = fmt.Sprintf("%s (ours %.2f x)", number(their), mine/their)
	}
	return out
}

// oursFigures starts bramble and measures it.
func (b *bench) oursFigures(dir string, only *regexp.Regexp) (figures, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	broker, err := freeAddress()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	server := filepath.Join(b.bin, "bramble")
	if b.o.server != "" {
		server = b.o.server
	}
	cmd := exec.CommandContext(b.ctx, server, "server", "--data-dir", filepath.Join(dir, "data"), "--log-level", "warn", "--api-listen", listen, "--mqtt-listen", broker)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), "BRAMBLE_CONFIG=/dev/null")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	s := &apiServer{bench: b, kubeconfig: filepath.Join(dir, "data", "kubeconfig"), pids: []int{cmd.Process.Pid}, settle: settleTime, only: only}
	return s.figures()
}

// theirFigures starts kube-apiserver and etcd, without controllers, and measures both together.
func (b *bench) theirFigures(dir string, only *regexp.Regexp) (f figures, err error) {
	call := func(args ...string) error {
		cmd := exec.Command(b.o.reference, args...)
		cmd.Env = append(os.Environ(), "REFERENCE_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("reference %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := call("up", "--api"); err != nil { // it may be another's, which down would end
		return nil, err
	}
	defer func() { err = errors.Join(err, call("down")) }()
	s := &apiServer{bench: b, kubeconfig: filepath.Join(dir, "kubeconfig"), settle: restTime, only: only}
	for _, name := range []string{"apiserver", "etcd"} {
		text, err := os.ReadFile(filepath.Join(dir, name+".pid"))
		if err != nil {
			return nil, err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, err
		}
		s.pids = append(s.pids, pid)
	}
	return s.figures()
}

// figures measures everything, the creates last: they leave the most behind.
func (s *apiServer) figures() (figures, error) {
	f := figures{}
	if err := s.connect(); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		name string
		do   func(figures) error
	}{
		{"idle", s.idle}, {"definitions and a webhook", s.definitionsAndWebhook}, {"10,000 objects", s.objectsAndLists}, {"watchers", s.watches}, {"creates", s.creates},
	} {
		if !s.only.MatchString(part.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s, processes %v\n", part.name, s.pids)
		if err := part.do(f); err != nil {
			return nil, fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return f, nil
}

// connect waits until the server is ready.
func (s *apiServer) connect() (err error) {
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if s.config, err = configOf(s.kubeconfig); err == nil {
			s.config.DisableCompression = true
			if s.client, err = kubernetes.NewForConfig(s.config); err == nil {
				if _, err = s.client.CoreV1().Namespaces().Get(s.bench.ctx, "default", metav1.GetOptions{}); err == nil {
					return nil
				}
			}
		}
		if time.Now().After(end) || s.bench.ctx.Err() != nil {
			return err
		}
	}
}

// memory of all its processes, after it was left alone.
func (s *apiServer) memory(rest time.Duration) (sum usage, err error) {
	if err := s.bench.sleep(rest); err != nil {
		return usage{}, err
	}
	for _, pid := range s.pids {
		u, err := usageOf(pid)
		if err != nil {
			return usage{}, err
		}
		sum.resident += u.resident
		sum.anonymous += u.anonymous
	}
	return sum, nil
}

func (s *apiServer) idle(f figures) error {
	u, err := s.memory(s.settle)
	f["idle, resident"], f["idle, anonymous"] = u.resident, u.anonymous
	return err
}

// kubectl runs the command with a manifest on its standard input.
func (s *apiServer) kubectl(manifest string, args ...string) error {
	cmd := exec.CommandContext(s.bench.ctx, filepath.Join(s.bench.bin, "kubectl"), append([]string{"--kubeconfig", s.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", args[0], err, out)
	}
	return nil
}

// definitionsAndWebhook: what the server holds with ten definitions, an object of each, and a webhook that is asked about ConfigMaps.
func (s *apiServer) definitionsAndWebhook(f figures) error {
	definitions, objects := tenDefinitions()
	if err := s.kubectl(definitions, "apply", "-f", "-"); err != nil {
		return err
	}
	if err := s.kubectl("", "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"); err != nil {
		return err
	}
	if err := s.kubectl(objects, "apply", "-f", "-"); err != nil {
		return err
	}
	remove, err := s.webhook()
	if err != nil {
		return err
	}
	u, err := s.memory(s.settle)
	f["ten definitions and a webhook, resident"], f["ten definitions and a webhook, anonymous"] = u.resident, u.anonymous
	if err := errors.Join(err, remove()); err != nil {
		return err
	}
	return s.kubectl("", "delete", "crd", "--all", "--timeout=120s")
}

// webhook makes one, which this process answers, and waits until it was asked.
func (s *apiServer) webhook() (remove func() error, err error) {
	var asked atomic.Int64
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		asked.Add(1)
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	none, scope := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.NamespacedScope
	hooks := s.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := hooks.Create(s.bench.ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "bench"}, Webhooks: []admissionregistrationv1.ValidatingWebhook{{
		Name: "bench.example.com", SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &srv.URL, CABundle: ca},
		Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}, Scope: &scope}}},
	}}}, metav1.CreateOptions{}); err != nil {
		srv.Close()
		return nil, err
	}
	remove = func() error {
		defer srv.Close()
		return hooks.Delete(context.Background(), "bench", metav1.DeleteOptions{})
	}
	for n := 0; asked.Load() < 10; n++ {
		if n == 1000 {
			return nil, errors.Join(errors.New("the webhook is not asked"), remove())
		}
		if _, err := s.client.CoreV1().ConfigMaps("default").Create(s.bench.ctx, configMap(fmt.Sprintf("hooked-%d", n)), metav1.CreateOptions{}); err != nil {
			return nil, errors.Join(err, remove())
		}
	}
	return remove, nil
}

func (s *apiServer) objectsAndLists(f figures) error {
	if err := s.objects(f); err != nil {
		return err
	}
	return s.lists(f)
}

// objects: 10,000 ConfigMaps in two namespaces.
func (s *apiServer) objects(f figures) error {
	before, err := s.memory(s.settle)
	if err != nil {
		return err
	}
	for _, ns := range []string{"bench-a", "bench-b"} {
		if _, err := s.client.CoreV1().Namespaces().Create(s.bench.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
			return err
		}
		var all sync.WaitGroup
		failed := make(chan error, 10)
		for w := range 10 {
			all.Go(func() {
				for n := range listed / 10 {
					if _, err := s.client.CoreV1().ConfigMaps(ns).Create(s.bench.ctx, configMap(fmt.Sprintf("many-%d-%d", w, n)), metav1.CreateOptions{}); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		all.Wait()
		select {
		case err := <-failed:
			return err
		default:
		}
	}
	u, err := s.memory(s.settle)
	const row = "10,000 ConfigMaps of 1.5 KB, "
	f[row+"resident"], f[row+"anonymous"], f[row+"anonymous, more than before"] = u.resident, u.anonymous, u.anonymous-before.anonymous
	return err
}

// lists reads 5,000 objects again and again: the median time until all is here, and what the server allocates for each.
func (s *apiServer) lists(f figures) error {
	client, err := rest.HTTPClientFor(s.config)
	if err != nil {
		return err
	}
	for _, as := range []struct{ name, accept string }{{"JSON", "application/json"}, {"protobuf", "application/vnd.kubernetes.protobuf"}} {
		one := func() (time.Duration, error) {
			began := time.Now()
			body, err := s.get(client, "/api/v1/namespaces/bench-a/configmaps", as.accept)
			if err != nil {
				return 0, err
			}
			defer body.Close()
			n, err := io.Copy(io.Discard, body)
			if err == nil && n < listed*1400 {
				err = fmt.Errorf("a list of %d bytes", n)
			}
			return time.Since(began), err
		}
		if _, err := one(); err != nil {
			return err
		}
		bytes, count, err := s.allocated(client)
		if err != nil {
			return err
		}
		var took []time.Duration
		for range lists {
			d, err := one()
			if err != nil {
				return err
			}
			took = append(took, d)
		}
		bytesAfter, countAfter, err := s.allocated(client)
		if err != nil {
			return err
		}
		slices.Sort(took)
		row := "list of 5,000 as " + as.name
		f[row] = float64(took[lists/2].Microseconds()) / 1000
		f[row+", allocated"], f[row+", allocations"] = (bytesAfter-bytes)/lists/mib, (countAfter-count)/lists/1000
	}
	return nil
}

func (s *apiServer) get(client *http.Client, path, accept string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(s.bench.ctx, http.MethodGet, s.config.Host+path, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, res.Status)
	}
	return res.Body, nil
}

// allocated is what the API server has allocated since it began, in bytes and in number, by its own metrics.
func (s *apiServer) allocated(client *http.Client) (bytes, count float64, err error) {
	body, err := s.get(client, "/metrics", "text/plain")
	if err != nil {
		return 0, 0, err
	}
	defer body.Close()
	for lines := bufio.NewScanner(body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		switch name {
		case "go_memstats_alloc_bytes_total":
			bytes, err = strconv.ParseFloat(value, 64)
		case "go_memstats_mallocs_total":
			count, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	if bytes == 0 || count == 0 {
		return 0, 0, errors.New("/metrics says nothing of allocations")
	}
	return bytes, count, nil
}

// watches: 500 on the ConfigMaps of a namespace, of which one is changed again and again.
func (s *apiServer) watches(f figures) error {
	ctx, stop := context.WithCancel(s.bench.ctx)
	defer stop()
	client, err := rest.HTTPClientFor(s.config)
	if err != nil {
		return err
	}
	maps := s.client.CoreV1().ConfigMaps("default")
	m, err := maps.Create(ctx, configMap("watched"), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	before, err := s.memory(restTime / 2)
	if err != nil {
		return err
	}
	told := make(chan struct{}, watchers)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer stop()
	for range watchers {
		body, err := s.get(client, "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dwatched&resourceVersion="+m.ResourceVersion, "application/json")
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { body.Close() })
		reading.Go(func() {
			for lines := bufio.NewReader(body); ; {
				if _, err := lines.ReadSlice('\n'); err != nil {
					return
				}
				told <- struct{}{}
			}
		})
	}
	after, err := s.memory(restTime / 2)
	if err != nil {
		return err
	}
	f["500 watchers, anonymous, more than before"] = after.anonymous - before.anonymous
	var took []time.Duration
	cpu := s.cpu()
	for n := range changes {
		m.Data["n"] = fmt.Sprint(n)
		began := time.Now()
		if m, err = maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
			return err
		}
		for range watchers {
			select {
			case <-told:
			case <-time.After(time.Minute):
				return errors.New("a watch does not tell of a change")
			}
		}
		took = append(took, time.Since(began))
	}
	f["a change for 500 watchers, CPU"] = (s.cpu() - cpu) * 1000 / changes
	slices.Sort(took)
	f["a change until 500 watchers have it"] = float64(took[changes/2].Microseconds()) / 1000
	return nil
}

func (s *apiServer) cpu() (sum float64) {
	for _, pid := range s.pids {
		own, _ := cpuOf(pid)
		sum += own
	}
	return sum
}

func (s *apiServer) creates(f figures) error {
	for _, writers := range []int{1, 16} {
		cpu := s.cpu()
		r, err := createFor(s.bench.ctx, s.config, fmt.Sprintf("bench-%d", writers), writers, createTime, s.pids...)
		if err != nil {
			return err
		}
		f[fmt.Sprintf("durable creates, %d writers", writers)] = r.perSecond
		f[fmt.Sprintf("CPU of each create, %d writers", writers)] = (s.cpu() - cpu) * 1000 / r.count
		f[fmt.Sprintf("bytes to disk of each create, %d writers", writers)] = r.bytesEach
	}
	return nil
}

// freeAddress is one of this machine's that nobody listens at now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
