package clusterrole

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	rbacv1 "k8s.io/api/rbac/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// An aggregate has the rules of the roles with its label, each once; a role that comes, changes or goes is followed.
func TestAnAggregateFollowsItsRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		roles := api.Client().RbacV1().ClusterRoles()
		create := func(name, label string, resources ...string) {
			t.Helper()
			role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
			for _, r := range resources {
				role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{r}, Verbs: []string{"get"}})
			}
			if _, err := roles.Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		view := &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "view", Labels: map[string]string{"to-view": "true"}}, // its own label selects it too
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchLabels: map[string]string{"to-view": "true"}}, {MatchLabels: map[string]string{"to-all": "true"}},
			}},
			Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}, // somebody wrote into it
		}
		if _, err := roles.Create(t.Context(), view, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		create("b", "to-view", "pods", "secrets")
		create("c", "to-all", "pods", "nodes")
		create("d", "to-edit", "services")
		process := api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, ClusterRoles: set.ClusterRoles(), Log: slog.New(slog.DiscardHandler)})
		})
		defer process.Stop()
		check := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			role, err := roles.Get(t.Context(), "view", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range role.Rules {
				got = append(got, r.Resources...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s view allows %v, want %v", when, got, want)
			}
		}
		check("at first", "pods", "secrets", "nodes")
		create("a", "to-view", "events")
		check("with one more", "events", "pods", "secrets", "nodes")
		if err := roles.Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("with one less", "events", "pods", "nodes")
		before := process.Writes()
		create("e", "to-edit", "services")
		check("with one that is none of its", "events", "pods", "nodes")
		if n := process.Writes() - before; n != 0 {
			t.Errorf("%d writes when nothing changed", n)
		}
	})
}
