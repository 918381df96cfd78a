package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/internal/golden"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

func TestTable(t *testing.T) {
	k := nfttest.New()
	f := Open(k, Options{Table: tableName})
	if err := f.Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "testdata/everything.nft", k.Text(tableName))
	if err := f.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := k.Text(tableName); got != "" {
		t.Errorf("left after the teardown:\n%s", got)
	}
}

func TestKernelTakesTheTable(t *testing.T) {
	ours := nfttest.New()
	if err := Open(ours, Options{Table: tableName}).Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	nfttest.TakenByKernel(t, tableName, ours.Text(tableName), func(conn *nft.Conn) error {
		return Open(conn, Options{Table: tableName}).Set(context.Background(), everything())
	})
}

// TestManyExceptions: a policy may except more of a range than fits into one rule of the kernel's.
func TestManyExceptions(t *testing.T) {
	block := &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}
	for i := range 300 {
		block.Except = append(block.Except, fmt.Sprintf("10.%d.%d.0/25", i/100, i%100))
	}
	np := pol("shop", "web", labelled("app", "web"), in, out)
	np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{
		{From: peers{{IPBlock: block}}},
		{From: peers{{IPBlock: block}, {PodSelector: labelled("app", "front")}}, Ports: ports{at("TCP", 80, 0), at("", 8000, 8100), at("", "http", 0)}},
	}
	np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: peers{{IPBlock: block}}, Ports: ports{at("TCP", 443, 0)}}}
	c := everything()
	c.Policies = append(c.Policies, np)
	ours := nfttest.New()
	if err := Open(ours, Options{Table: tableName}).Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	nfttest.TakenByKernel(t, tableName, ours.Text(tableName), func(conn *nft.Conn) error {
		return Open(conn, Options{Table: tableName}).Set(context.Background(), c)
	})
}

// TestChangesAreSmall counts what the kernel is told of a change.
func TestChangesAreSmall(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	f := Open(k, Options{Table: tableName})
	c := everything()
	set := func() (ops, elements int) {
		t.Helper()
		before := k.Applied
		if err := f.Set(ctx, c); err != nil {
			t.Fatal(err)
		}
		if k.Applied == before {
			return 0, 0
		}
		return k.Ops, k.Touched
	}
	set()
	if ops, _ := set(); ops != 0 {
		t.Errorf("the same configuration: %d operations", ops)
	}
	c.Peers = append(slices.Clone(c.Peers), peer("10.42.3.2", "shop", "front-3", "app", "front"))
	if ops, n := set(); ops != 3 || n != 3 { // its address, and its port as two peers of the policy see it
		t.Errorf("a peer that comes: %d operations, %d elements", ops, n)
	}
	c.Pods = append(slices.Clone(c.Pods), here("10.42.1.9", "shop", "db-2", "app", "db"))
	if ops, n := set(); ops > 6 || n > 6 {
		t.Errorf("a pod that comes: %d operations, %d elements", ops, n)
	}
	c.Pods = append(slices.Clone(c.Pods), here("10.42.1.10", "free", "bee"))
	if ops, n := set(); ops > 2 || n > 2 {
		t.Errorf("a pod that nothing isolates: %d operations, %d elements", ops, n)
	}
}

// TestTableOfAnotherProcess: what an earlier agent left is replaced in one transaction, what somebody
// removed comes back, and a node without isolated pods has no table.
func TestTableOfAnotherProcess(t *testing.T) {
	ctx := context.Background()
	k := nfttest.New()
	if err := Open(k, Options{Table: tableName}).Set(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	want := k.Text(tableName)
	f := Open(k, Options{Table: tableName})
	n := k.Applied
	for range 2 {
		if err := f.Set(ctx, everything()); err != nil || k.Text(tableName) != want || k.Applied != n+1 {
			t.Fatalf("err %v, %d transactions, table:\n%s", err, k.Applied-n, k.Text(tableName))
		}
		if err := k.Apply([]nft.Op{nft.DeleteTable{Table: tableName}}); err != nil {
			t.Fatal(err)
		}
		n = k.Applied
	}
	c := everything()
	c.Policies = nil
	if err := Open(k, Options{Table: tableName}).Set(ctx, c); err != nil || k.Text(tableName) != "" {
		t.Errorf("without policies: err %v, table:\n%s", err, k.Text(tableName))
	}
	refuse := errors.New("no")
	k.Fail = func([]nft.Op) error { return refuse }
	if err := f.Set(ctx, everything()); !errors.Is(err, refuse) {
		t.Errorf("a refused transaction: %v", err)
	}
	k.Fail = nil
	if err := f.Set(ctx, everything()); err != nil || k.Text(tableName) != want {
		t.Errorf("after it: err %v, table:\n%s", err, k.Text(tableName))
	}
}

// TestForgottenPod: the server may forget a pod, and with it the policies, before the pod has stopped.
func TestForgottenPod(t *testing.T) {
	k := nfttest.New()
	f := Open(k, Options{Table: tableName})
	c := everything()
	for i, step := range []struct {
		forget bool
		want   []string
	}{
		{false, []string{"10.42.1.4", "10.42.1.5"}},
		{true, []string{"10.42.1.4", "10.42.1.5"}},
		{true, []string{"10.42.1.4", "10.42.1.5"}},
		{false, nil},
	} {
		c := c
		c.Pods = []Pod{c.Pods[2], c.Pods[3], c.Pods[4]}
		if i > 0 {
			c.Policies = nil
		}
		for n := range c.Pods {
			c.Pods[n].Forgotten = step.forget
		}
		if err := f.Set(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		var got []string
		es, err := k.Elements(tableName, ingress.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			addr, _, _ := strings.Cut(e.Format(ingress), " ")
			got = append(got, addr)
		}
		slices.Sort(got)
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: isolated are %v, want %v", i, got, step.want)
		}
	}
}
