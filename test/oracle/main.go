// Command oracle asks Bramble's API and upstream's own kube-apiserver the same thirty thousand things, and compares the answers: the
// codes, the headers that clients act on, and the bodies in every encoding, without what is each cluster's own (identities,
// revisions, times, addresses that were given out).
//
// The requests are made from what the reference serves: for each kind an object in objects.yaml, which is created, read, listed,
// watched, patched and deleted in every way, sent with one field at a time taken away or made wrong, with each further field that
// upstream's kind has, malformed, and by people who may not; and from what single kinds do beside that. Nobody's controllers
// run on either side: they are the business of upstream's end-to-end suite.
//
//	scripts/oracle [--only GROUPS]
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"iter"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

type options struct {
	reference, token string
	api              string // the folder of the module k8s.io/api
	only             string
	report           string // folder
	coverage         string // file
}

func main() {
	var o options
	flag.StringVar(&o.reference, "reference", "https://127.0.0.1:16443", "upstream's server, with the service network 10.96.0.0/16")
	flag.StringVar(&o.token, "token", "reference", "a token that lets in there")
	flag.StringVar(&o.api, "api", "", "folder of the module k8s.io/api, for its objects with every field")
	flag.StringVar(&o.only, "only", "", "the groups or kinds to compare, a regular expression; empty: all")
	flag.StringVar(&o.report, "report", "build/oracle", "folder for the differences")
	flag.StringVar(&o.coverage, "coverage", "", "the page to write about what is served and what differs; empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	ours, stop, err := serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	theirs := newSide(o.reference, o.token, &tls.Config{InsecureSkipVerify: true}) // a server of this script's own, on loopback
	ns := fmt.Sprintf("oracle-%d", os.Getpid())
	corpus, kinds, err := requests(ctx, theirs, ns, o.api)
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if k.object == nil && k.can("list") && k.can("create") {
			return fmt.Errorf("objects.yaml has no %s of %s", k.Kind, k.gv)
		}
	}
	r, err := compareAll(ctx, ours, theirs, corpus, only)
	if err != nil {
		return err
	}
	if err := r.write(o.report); err != nil {
		return err
	}
	if o.coverage != "" && o.only == "" {
		served, err := kindsOf(ctx, ours, nil)
		if err != nil {
			return err
		}
		if err := r.page(o.coverage, served, kinds); err != nil {
			return err
		}
	}
	if all, equal, explained := r.sums(); all > equal+explained {
		return fmt.Errorf("%d answers differ for no reason that is known: see %s", all-equal-explained, filepath.Join(o.report, "differences.txt"))
	}
	return nil
}

// compareAll asks both servers, and reports what only selects.
func compareAll(ctx context.Context, ours, theirs *side, corpus []exchange, only *regexp.Regexp) (*report, error) {
	r := &report{groups: map[string]*tally{}}
	skip := func(e exchange) bool { return !e.once && !e.setup && !only.MatchString(e.group+": "+e.name) }
	for e, a := range askAll(ctx, ours, theirs, slices.DeleteFunc(corpus, skip)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e.must != 0 && a.want.code != e.must {
			return nil, fmt.Errorf("%s: upstream says %d %.500s", e.name, a.want.code, a.want.body)
		}
		if e.setup && e.must != 0 && a.got.code != e.must {
			return nil, fmt.Errorf("%s %s: %d %.500s", e.name, e.path, a.got.code, a.got.body)
		}
		// What an object's life is made of had to be asked in any case.
		if !e.setup && only.MatchString(e.group+": "+e.name) {
			r.add(e, a)
		}
	}
	return r, nil
}

// requests are all that is asked, in order.
func requests(ctx context.Context, theirs *side, ns, api string) (out []exchange, kinds []*kind, err error) {
	known, err := manifests(ns)
	if err != nil {
		return nil, nil, err
	}
	if kinds, err = kindsOf(ctx, theirs, known); err != nil {
		return nil, nil, err
	}
	setup := func(path, body string) {
		out = append(out, exchange{name: "setup", method: "POST", path: path, body: body, setup: true, once: true, must: 201})
	}
	setup("/api/v1/namespaces", `{"metadata":{"name":"`+ns+`"}}`)
	setup(core(ns)+"serviceaccounts", `{"metadata":{"name":"default"}}`)
	out = append(out, documents(kinds)...)
	out = append(out, paths()...)
	out = append(out, populate(ns)...)
	out = append(out, listOptions(ns)...)
	out = append(out, watches(ns)...)
	out = append(out, special(ns)...)
	out = append(out, identities(ns)...)
	for _, k := range kinds {
		if k.object == nil {
			continue
		}
		more, err := everyField(k, ns, api)
		if err != nil {
			return nil, nil, err
		}
		out = slices.Concat(out, create(k, ns))
		if k.Kind == "CustomResourceDefinition" {
			out = append(out, exchange{name: "setup", method: "GET", path: "/apis/" + ns + ".example.com/v1beta1/things", setup: true, patience: 20 * time.Second, must: 200})
			out = append(out, things(ns)...)
		}
		// Servers write the states of some by themselves.
		out = append(out, exchange{name: "setup", method: "GET", path: k.one(ns), setup: true, pause: writtenByServers[k.Kind]})
		out = slices.Concat(out, gets(k, ns), lists(k, ns), statuses(k, ns), changes(k, ns), fieldByField(k, ns), more, malformed(k, ns), refusals(k, ns), end(k, ns))
	}
	return out, kinds, nil
}

// writtenByServers: how long it takes an API server to write the state of a new object of a kind.
var writtenByServers = map[string]time.Duration{"ValidatingAdmissionPolicy": time.Second, "APIService": time.Second, "CustomResourceDefinition": time.Second}

// answers are what both servers said.
type answers struct {
	got, want answer
	differ    []string // the places where they differ
}

// askAll asks in order, but for what changes nothing: several of those at a time, because some of them wait.
func askAll(ctx context.Context, ours, theirs *side, corpus []exchange) iter.Seq2[exchange, answers] {
	return func(yield func(exchange, answers) bool) {
		for len(corpus) > 0 {
			n := slices.IndexFunc(corpus, func(e exchange) bool { return e.once || e.setup })
			switch {
			case n < 0:
				n = len(corpus)
			case n == 0:
				n = 1
			}
			n = min(n, 1000)
			all := make([]answers, n)
			var group errgroup.Group
			group.SetLimit(8)
			for i := range all {
				group.Go(func() error {
					all[i] = ask(ctx, ours, theirs, corpus[i])
					return nil
				})
			}
			group.Wait()
			for i, a := range all {
				if !yield(corpus[i], a) {
					return
				}
			}
			corpus = corpus[n:]
		}
	}
}

// ask sends one request to both, at the same time. One that changes nothing is asked again before its answers are said to differ: it
// may have met a cache that was behind.
func ask(ctx context.Context, ours, theirs *side, e exchange) (out answers) {
	select {
	case <-time.After(e.pause):
	case <-ctx.Done():
	}
	for try := 0; ; try++ {
		type said struct {
			a   answer
			err error
		}
		their := make(chan said)
		put := (*side).ask
		if len(e.meanwhile) > 0 {
			put = (*side).watch
		}
		go func() {
			a, err := put(theirs, ctx, e)
			their <- said{a, err}
		}()
		a, err := put(ours, ctx, e)
		t := <-their
		out = answers{got: a, want: t.a}
		switch {
		case err != nil && t.err != nil:
			out.differ = []string{fmt.Sprintf("no answer from either: %v; upstream: %v", err, t.err)}
		case (err == nil) != (t.err == nil):
			out.differ = []string{fmt.Sprintf("no answer: %v; upstream: %v", err, t.err)}
		case err == nil:
			out.differ = differences(a, t.a)
		}
		settled := len(out.differ) == 0 && (e.must == 0 || t.a.code == e.must) && !a.behind() && !t.a.behind()
		if !settled && time.Duration(try)*200*time.Millisecond < e.patience && ctx.Err() == nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if len(out.differ) == 0 || e.once && err == nil && t.err == nil || try == 2 || ctx.Err() != nil {
			return out
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// tally counts the answers of a group of requests.
type tally struct{ all, equal, explained int }

// report keeps what differed.
type report struct {
	groups map[string]*tally
	lines  []difference
}

type difference struct {
	exchange
	answers
	why string // empty: nobody has explained it
}

func (r *report) add(e exchange, a answers) {
	t := r.groups[e.group]
	if t == nil {
		t = &tally{}
		r.groups[e.group] = t
	}
	t.all++
	if len(a.differ) == 0 {
		t.equal++
		return
	}
	d := difference{e, a, explain(e, a.differ)}
	if d.why != "" {
		t.explained++
	}
	r.lines = append(r.lines, d)
}

// write puts the differences into a file, and the sums on the standard output.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var b strings.Builder
	for _, d := range r.lines {
		fmt.Fprintf(&b, "%s: %s\n  %s %s %.300s\n", d.group, d.name, d.method, d.path, d.body)
		for _, line := range d.differ {
			fmt.Fprintf(&b, "    %s\n", line)
		}
		if d.why != "" {
			fmt.Fprintf(&b, "  explained: %s\n", d.why)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "differences.txt"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	all, equal, explained := r.sums()
	fmt.Printf("%-22s %8s %8s %10s %8s\n", "group", "requests", "equal", "explained", "differ")
	for _, name := range r.names() {
		t := r.groups[name]
		fmt.Printf("%-22s %8d %8d %10d %8d\n", name, t.all, t.equal, t.explained, t.all-t.equal-t.explained)
	}
	fmt.Printf("%d of %d equal (%.2f %%); %d differ for a reason that docs/api-coverage.md gives, %d for none\n", equal, all, 100*float64(equal)/float64(max(all, 1)), explained, all-equal-explained)
	return nil
}

func (r *report) names() []string {
	return slices.Sorted(maps.Keys(r.groups))
}

func (r *report) sums() (all, equal, explained int) {
	for _, t := range r.groups {
		all, equal, explained = all+t.all, equal+t.equal, explained+t.explained
	}
	return all, equal, explained
}
