package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	upstream "k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/client-go/rest"

	"bramble.dev/server/auth"
)

const (
	levelHeader  = flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID
	schemaHeader = flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID
)

// flow is which FlowSchema and level an answer names.
func (c *cluster) flow(t *testing.T, a answer) string {
	t.Helper()
	names := map[string]string{}
	for _, s := range must(c.client.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{}))(t).Items {
		names[string(s.UID)] = s.Name
	}
	for _, l := range must(c.client.FlowcontrolV1().PriorityLevelConfigurations().List(t.Context(), metav1.ListOptions{}))(t).Items {
		names[string(l.UID)] = l.Name
	}
	return names[a.header.Get(schemaHeader)] + "/" + names[a.header.Get(levelHeader)]
}

// level makes a level of a share, whose requests wait in queues or, without any, are refused at once.
func (c *cluster) level(t *testing.T, name string, shares int32, queuing *flowcontrolv1.QueuingConfiguration) *flowcontrolv1.PriorityLevelConfiguration {
	t.Helper()
	levels := c.client.FlowcontrolV1().PriorityLevelConfigurations()
	none, response := int32(0), flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	if queuing != nil {
		response = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: queuing}
	}
	t.Cleanup(func() { levels.Delete(t.Context(), name, metav1.DeleteOptions{}) })
	return must(levels.Create(t.Context(), &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: &shares, LimitResponse: response, LendablePercent: &none, BorrowingLimitPercent: &none,
		}},
	}, metav1.CreateOptions{}))(t)
}

// schema leads all requests of users to a level.
func (c *cluster) schema(t *testing.T, name, level string, precedence int32, users ...string) *flowcontrolv1.FlowSchema {
	t.Helper()
	schemas := c.client.FlowcontrolV1().FlowSchemas()
	everything := flowcontrolv1.PolicyRulesWithSubjects{
		ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
			Verbs: []string{flowcontrolv1.VerbAll}, APIGroups: []string{flowcontrolv1.APIGroupAll}, Resources: []string{flowcontrolv1.ResourceAll},
			ClusterScope: true, Namespaces: []string{flowcontrolv1.NamespaceEvery},
		}},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{flowcontrolv1.VerbAll}, NonResourceURLs: []string{flowcontrolv1.NonResourceAll}}},
	}
	for _, u := range users {
		everything.Subjects = append(everything.Subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: u}})
	}
	t.Cleanup(func() { schemas.Delete(t.Context(), name, metav1.DeleteOptions{}) })
	return must(schemas.Create(t.Context(), &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			MatchingPrecedence: precedence, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
			DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules:               []flowcontrolv1.PolicyRulesWithSubjects{everything},
		},
	}, metav1.CreateOptions{}))(t)
}

// configMaps lets users do everything with ConfigMaps of a namespace.
func (c *cluster) configMaps(t *testing.T, ns string, users ...string) {
	t.Helper()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "configmaps"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}}}}
	binding := &rbacv1.RoleBinding{ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}}
	for _, u := range users {
		binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: u})
	}
	must(c.client.RbacV1().Roles(ns).Create(t.Context(), role, metav1.CreateOptions{}))(t)
	must(c.client.RbacV1().RoleBindings(ns).Create(t.Context(), binding, metav1.CreateOptions{}))(t)
}

// dangling waits for what a FlowSchema's condition says.
func (c *cluster) dangling(t *testing.T, name string, want flowcontrolv1.ConditionStatus, message string) {
	t.Helper()
	eventually(t, name+": Dangling is "+string(want), func() bool {
		s := must(c.client.FlowcontrolV1().FlowSchemas().Get(t.Context(), name, metav1.GetOptions{}))(t)
		return len(s.Status.Conditions) == 1 && s.Status.Conditions[0].Type == flowcontrolv1.FlowSchemaConditionDangling &&
			s.Status.Conditions[0].Status == want && s.Status.Conditions[0].Message == message
	})
}

// Each request is of the FlowSchema that upstream's objects give it.
func TestFlowsOfTheBeginning(t *testing.T) {
	c, ns := shared(t)
	for _, s := range append(upstream.MandatoryFlowSchemas, upstream.SuggestedFlowSchemas...) {
		c.dangling(t, s.Name, flowcontrolv1.ConditionFalse, `This FlowSchema references the PriorityLevelConfiguration object named "`+s.Spec.PriorityLevelConfiguration.Name+`" and it exists`)
	}
	user := func(name string, groups ...string) *rest.Config { return must(c.as(name, groups...))(t) }
	account := func(ns, name string) *rest.Config {
		return user("system:serviceaccount:"+ns+":"+name, "system:serviceaccounts", "system:serviceaccounts:"+ns)
	}
	node := user(auth.NodeUser("n"), auth.NodesGroup)
	const leases = "/apis/coordination.k8s.io/v1/namespaces/"
	for _, tt := range []struct {
		who          string
		as           *rest.Config
		method, path string
		want         string
	}{
		{"the administrator", c.config, "GET", "/api/v1/nodes", "exempt/exempt"},
		{"nobody asks for health", c.with(""), "GET", "/healthz", "probes/exempt"},
		{"nobody asks for readiness", c.with(""), "GET", "/readyz", "probes/exempt"},
		{"nobody asks for anything else", c.with(""), "GET", "/api/v1/nodes", "global-default/global-default"},
		{"a user", user("jane"), "GET", "/api/v1/nodes", "global-default/global-default"},
		{"a user, no resource", user("jane"), "GET", "/version", "global-default/global-default"},
		{"a user who is refused", user("jane"), "DELETE", "/api/v1/nodes/n", "global-default/global-default"},
		{"a node", node, "GET", "/api/v1/namespaces/" + ns + "/pods/p", "system-nodes/system"},
		{"a node's heartbeat", node, "PATCH", "/api/v1/nodes/n/status", "system-node-high/node-high"},
		{"a node's lease", node, "GET", leases + "kube-node-lease/leases/n", "system-node-high/node-high"},
		{"the scheduler", user("system:kube-scheduler"), "GET", "/api/v1/nodes", "kube-scheduler/workload-high"},
		{"the scheduler's lease", user("system:kube-scheduler"), "PUT", leases + "kube-system/leases/kube-scheduler", "system-leader-election/leader-election"},
		{"the controllers", user("system:kube-controller-manager"), "GET", "/api/v1/nodes", "kube-controller-manager/workload-high"},
		{"a controller of the system", account("kube-system", "deployment-controller"), "GET", "/api/v1/nodes", "kube-system-service-accounts/workload-high"},
		{"the lease of one", account("kube-system", "some"), "GET", leases + "kube-system/leases/l", "system-leader-election/leader-election"},
		{"a program", account(ns, "default"), "GET", "/api/v1/nodes", "service-accounts/workload-low"},
		{"a program that looks for orders", account(ns, "default"), "GET", "/apis/coordination.k8s.io/v1/namespaces/" + ns + "/leases/l", "service-accounts/workload-low"},
	} {
		if got := c.flow(t, ask(t, tt.as, tt.method, tt.path, "")); got != tt.want {
			t.Errorf("%s, %s %s: %s, want %s", tt.who, tt.method, tt.path, got, tt.want)
		}
	}
}

// Who makes FlowSchemas and levels decides: the first by precedence counts, once its level is there and as long as it is.
func TestFlowsOfOnesOwn(t *testing.T) {
	c, ns := shared(t)
	jane := must(c.as("jane-" + ns))(t)
	is := func(want string) func() bool {
		return func() bool { return c.flow(t, ask(t, jane, "GET", "/version", "")) == want }
	}
	first, second := ns+"-first", ns+"-second"
	c.level(t, second, 1, nil)
	c.schema(t, second, second, 1000, "jane-"+ns)
	if a := ask(t, c.config, "GET", "/metrics", ""); !strings.Contains(a.body, `apiserver_flowcontrol_nominal_limit_seats{priority_level="`+second+`"} `) {
		t.Errorf("the metrics know no seats of %s", second)
	}
	eventually(t, "the new FlowSchema counts", is(second+"/"+second))
	c.schema(t, first, first, 999, "jane-"+ns)
	c.dangling(t, first, flowcontrolv1.ConditionTrue, `This FlowSchema references the PriorityLevelConfiguration object named "`+first+`" but there is no such object`)
	if !is(second + "/" + second)() {
		t.Error("a FlowSchema counts whose level is not there")
	}
	level := c.level(t, first, 1, nil)
	c.dangling(t, first, flowcontrolv1.ConditionFalse, `This FlowSchema references the PriorityLevelConfiguration object named "`+first+`" and it exists`)
	eventually(t, "the one before it counts", is(first+"/"+first))
	if err := c.client.FlowcontrolV1().PriorityLevelConfigurations().Delete(t.Context(), level.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other counts again", is(second+"/"+second))
	if a := ask(t, must(c.as("joe-"+ns))(t), "GET", "/version", ""); c.flow(t, a) != "global-default/global-default" {
		t.Errorf("somebody else: %s", c.flow(t, a))
	}
}

// What must be there comes back, what was suggested stays as its user wants it.
func TestFlowsAreKept(t *testing.T) {
	c := start(t, t.TempDir())
	schemas, levels := c.client.FlowcontrolV1().FlowSchemas(), c.client.FlowcontrolV1().PriorityLevelConfigurations()
	for _, err := range []error{
		schemas.Delete(t.Context(), "exempt", metav1.DeleteOptions{}), schemas.Delete(t.Context(), "probes", metav1.DeleteOptions{}),
		levels.Delete(t.Context(), "catch-all", metav1.DeleteOptions{}), levels.Delete(t.Context(), "workload-low", metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the objects come back", func() bool {
		var missing int
		for _, name := range []string{"exempt", "probes"} {
			if _, err := schemas.Get(t.Context(), name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				missing++
			}
		}
		for _, name := range []string{"catch-all", "workload-low"} {
			if _, err := levels.Get(t.Context(), name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				missing++
			}
		}
		return missing == 0
	})

	// The share of a mandatory level may be changed; its way to refuse may not, and is put back where it comes from an older release.
	suggested := must(levels.Get(t.Context(), "global-default", metav1.GetOptions{}))(t)
	shares := int32(7)
	suggested.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] = "false"
	suggested.Spec.Limited.NominalConcurrencyShares = &shares
	must(levels.Update(t.Context(), suggested, metav1.UpdateOptions{}))(t)
	other := must(levels.Get(t.Context(), "workload-high", metav1.GetOptions{}))(t)
	other.Spec.Limited.NominalConcurrencyShares = &shares
	must(levels.Update(t.Context(), other, metav1.UpdateOptions{}))(t)
	eventually(t, "what is kept up to date is put back", func() bool {
		have := must(levels.Get(t.Context(), "workload-high", metav1.GetOptions{}))(t)
		return *have.Spec.Limited.NominalConcurrencyShares == *upstream.SuggestedPriorityLevelConfigurationWorkloadHigh.Spec.Limited.NominalConcurrencyShares
	})
	c.schema(t, "marker", "global-default", 500, "nobody")
	c.dangling(t, "marker", flowcontrolv1.ConditionFalse, `This FlowSchema references the PriorityLevelConfiguration object named "global-default" and it exists`)
	if have := must(levels.Get(t.Context(), "global-default", metav1.GetOptions{}))(t); !equality.Semantic.DeepEqual(have.Spec, suggested.Spec) {
		t.Errorf("what its user has changed was put back: %+v", have.Spec)
	}
}

// Five hundred slow requests of one user, again and again, are waited for by nobody else.
func TestAFloodWaitsForItself(t *testing.T) {
	c := start(t, t.TempDir())
	ns := c.namespace(t)
	c.configMaps(t, ns, "flood", "steady")

	// A webhook makes the flood's requests as slow as the test wants.
	release, over, arrived := make(chan struct{}), make(chan struct{}), make(chan struct{}, 10000)
	none, ignore, limit := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Ignore, int32(30)
	must(c.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "slow"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "slow.example.com", Rules: onConfigMaps, NamespaceSelector: in(ns), SideEffects: &none, AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &ignore, TimeoutSeconds: &limit,
			ClientConfig: answering(t, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
				if r.UserInfo.Username == "flood" {
					arrived <- struct{}{}
					select {
					case <-release:
					case <-over:
					}
				}
				return &admissionv1.AdmissionResponse{Allowed: true}
			}),
		}},
	}, metav1.CreateOptions{}))(t)

	// Some twenty seats, of which no others are lent or borrowed, and room for 400 requests of one flow to wait.
	const level = "shared-by-two"
	c.level(t, level, 8, &flowcontrolv1.QueuingConfiguration{Queues: 64, HandSize: 4, QueueLengthLimit: 100})
	c.schema(t, level, level, 900, "flood", "steady")
	flood, steady := must(c.as("flood"))(t), must(c.as("steady"))(t)
	eventually(t, "the FlowSchema counts", func() bool { return c.flow(t, ask(t, flood, "GET", "/version", "")) == level+"/"+level })
	var refused atomic.Pointer[answer]
	var group sync.WaitGroup
	defer group.Wait()
	defer close(over)
	h := must(rest.HTTPClientFor(flood))(t)
	for range 500 {
		group.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				r, err := http.NewRequest("POST", flood.Host+"/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", strings.NewReader(`{"metadata":{"generateName":"f-"}}`))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", "application/json")
				res, err := h.Do(r)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				if res.StatusCode == http.StatusTooManyRequests {
					refused.Store(&answer{code: res.StatusCode, header: res.Header})
				}
			}
		})
	}
	eventually(t, "the flood fills its queues", func() bool { return refused.Load() != nil && c.column(t, level, "WaitingRequests") >= 300 })
	a := *refused.Load()
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || c.flow(t, a) != level+"/"+level {
		t.Errorf("a refusal: %v, of %s", a.header, c.flow(t, a))
	}

	if a := ask(t, c.config, "GET", "/api/v1/namespaces/"+ns+"/configmaps", ""); a.code != http.StatusOK {
		t.Errorf("the administrator: %d", a.code)
	}
	for len(arrived) > 0 {
		<-arrived
	}
	for _, method := range []string{"GET", "POST", "GET", "POST", "GET"} {
		done := make(chan answer, 1)
		go func() {
			body := ""
			if method == "POST" {
				body = `{"metadata":{"generateName":"s-"}}`
			}
			done <- ask(t, steady, method, "/api/v1/namespaces/"+ns+"/configmaps?dryRun=All", body, "Content-Type: application/json")
		}()
		ended := 0
		for waiting := true; waiting; {
			select {
			case a := <-done:
				if a.code != http.StatusOK && a.code != http.StatusCreated {
					t.Errorf("%s: %d %s", method, a.code, a.body)
				}
				waiting = false
			case release <- struct{}{}: // one request of the flood ends, and the next begins, whoever's it is
				ended++
				select {
				case <-arrived:
				case a := <-done:
					done <- a
				}
			}
		}
		// Those that are being worked on, and some more, whose queues have not been charged for them; in one queue for all it
		// would be four hundred.
		if ended > 200 {
			t.Errorf("%s waited for %d requests of the flood", method, ended)
		}
	}
}

// column is a number of upstream's table of levels, for debugging.
func (c *cluster) column(t *testing.T, level, name string) int {
	t.Helper()
	a := ask(t, c.config, "GET", "/debug/api_priority_and_fairness/dump_priority_levels", "")
	at := -1
	for line := range strings.Lines(a.body) {
		cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), " ", ""), ",")
		if at < 0 {
			at = slices.Index(cells, name)
		}
		if at >= 0 && cells[0] == level {
			return must(strconv.Atoi(cells[at]))(t)
		}
	}
	t.Fatalf("no %s of %s: %d %s", name, level, a.code, a.body)
	return 0
}

// A watch takes a seat only until it has sent what was there.
func TestWatchesLeaveTheirSeats(t *testing.T) {
	c, ns := shared(t)
	name := ns + "-watcher"
	must(c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("m"), metav1.CreateOptions{}))(t)
	c.configMaps(t, ns, name)
	c.level(t, name, 1, nil) // two or three seats
	c.schema(t, name, name, 900, name)
	config := must(c.as(name))(t)
	eventually(t, "the FlowSchema counts", func() bool { return c.flow(t, ask(t, config, "GET", "/version", "")) == name+"/"+name })
	maps := clientOf(t, config).CoreV1().ConfigMaps(ns)
	for n := range 20 {
		var err error
		eventually(t, "the seat of the watch before is free", func() bool {
			w, e := maps.Watch(t.Context(), metav1.ListOptions{})
			if err = e; err != nil {
				return false
			}
			t.Cleanup(w.Stop)
			return true
		})
		if err != nil {
			t.Fatalf("watch %d: %v", n, err)
		}
	}
	eventually(t, "there is a seat for a request", func() bool {
		_, err := maps.Get(t.Context(), "m", metav1.GetOptions{})
		return err == nil
	})
}

// Nor does it where another server answers it, which tells nothing of its beginning.
func TestWatchesOfOthersLeaveTheirSeats(t *testing.T) {
	c, ns, f, client := aggregating(t)
	publish(t, c, ns)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	const name = "watcher"
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"wardle.example.com"}, Resources: []string{"*"}, Verbs: []string{"*"}}}}
	must(c.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}))(t)
	must(c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}}}, metav1.CreateOptions{}))(t)
	c.level(t, name, 1, nil)
	c.schema(t, name, name, 900, name)
	config := must(c.as(name))(t)
	eventually(t, "the FlowSchema counts", func() bool { return c.flow(t, ask(t, config, "GET", "/version", "")) == name+"/"+name })

	path := "/apis/wardle.example.com/v1/namespaces/" + ns + "/flunders"
	f.serve(path, metav1.WatchEvent{Type: "BOOKMARK"})
	f.hold.Store(true)
	before := c.column(t, name, "DispatchedRequests")
	ended := make(chan int, 1)
	go func() {
		ended <- ask(t, config, "GET", path+"?watch=true", "").code
	}()
	eventually(t, "the watch has come and left its seat", func() bool {
		return c.column(t, name, "DispatchedRequests") == before+1 && c.column(t, name, "ExecutingRequests") == 0
	})
	select {
	case code := <-ended:
		t.Errorf("the watch has ended: %d", code)
	default:
	}
	f.hold.Store(false)
	if code := <-ended; code != http.StatusOK {
		t.Errorf("the watch: %d", code)
	}
}
