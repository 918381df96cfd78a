// Package clusterrole fills the ClusterRoles that are made of others: admin,
// edit and view collect what roles with their label allow.
//
// Invariant: only a role with an aggregation rule is written, and only its rules.
//
//	l := clusterrole.New(clusterrole.Inputs{...})
//	l.Run(ctx)
package clusterrole

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	rbacv1 "k8s.io/api/rbac/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client       kubernetes.Interface
	ClusterRoles *cache.Cache[rbacv1.ClusterRole]
	Log          *slog.Logger
}

type controller struct {
	Inputs
	writes loop.Writes
}

// New makes the controller. Any role may be part of any aggregate, so each
// change asks about all aggregates; there are few.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	l := loop.New("clusterrole-aggregation-controller", in.Log, c.reconcile)
	loop.Watch(l, in.ClusterRoles, func(cache.Change[rbacv1.ClusterRole]) []loop.Key {
		var keys []loop.Key
		for _, role := range in.ClusterRoles.List("", nil) {
			if role.AggregationRule != nil {
				keys = append(keys, loop.KeyOf(role))
			}
		}
		return keys
	})
	return l
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	role, ok := c.ClusterRoles.Get("", key.Name)
	if !ok || role.AggregationRule == nil {
		return nil
	}
	rules, err := collect(role, c.ClusterRoles.List("", nil))
	if err != nil {
		return loop.Permanent(err)
	}
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return nil
	}
	role = role.DeepCopy()
	role.Rules = rules
	written, err := c.Client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
	return loop.Updated(&c.writes, key, c.ClusterRoles, written, err, "write rules")
}

// collect gives the rules of all roles that an aggregate selects, each rule once.
func collect(aggregate *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for i := range aggregate.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&aggregate.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("aggregation rule: %w", err)
		}
		for _, role := range all {
			if role.Name == aggregate.Name || !selector.Matches(labels.Set(role.Labels)) {
				continue
			}
			for _, rule := range role.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
