package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"bramble.dev/server/api/resourcemetrics"
)

// seedRoles makes upstream's roles and bindings, and puts back what is missing in those that exist, unless they are annotated to be
// left alone. Upstream does the same in a hook that first waits a second.
func (s *Server) seedRoles(ctx context.Context) error {
	client := s.wiring.client
	rbac, namespaces := client.RbacV1(), client.CoreV1().Namespaces()
	type reconciler interface{ run() error }
	var all []reconciler
	for _, r := range slices.Concat(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles(), []rbacv1.ClusterRole{metricsReader, ingressRole, tokenRole}) {
		all = append(all, role{Confirm: true, Role: reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}, Client: reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()}})
	}
	for _, b := range slices.Concat(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings(), []rbacv1.ClusterRoleBinding{controllerBinding(ingressRole), controllerBinding(tokenRole)}) {
		all = append(all, binding{Confirm: true, RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &b}, Client: reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()}})
	}
	for _, roles := range bootstrappolicy.NamespaceRoles() {
		for _, r := range roles {
			all = append(all, role{Confirm: true, Role: reconciliation.RoleRuleOwner{Role: &r}, Client: reconciliation.RoleModifier{Client: rbac, NamespaceClient: namespaces}})
		}
	}
	for _, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range bindings {
			all = append(all, binding{Confirm: true, RoleBinding: reconciliation.RoleBindingAdapter{RoleBinding: &b}, Client: reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: namespaces}})
		}
	}
	// Side by side, because writes that wait together share a sync of the disk.
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(16)
	for _, r := range all {
		work.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return r.run()
		})
	}
	return work.Wait()
}

// metricsReader lets who may view, edit or administer a namespace see what its pods use. It is what metrics-server's installation
// brings, under the same name.
var metricsReader = rbacv1.ClusterRole{
	ObjectMeta: metav1.ObjectMeta{Name: "system:aggregated-metrics-reader", Labels: map[string]string{
		"rbac.authorization.k8s.io/aggregate-to-view": "true", "rbac.authorization.k8s.io/aggregate-to-edit": "true", "rbac.authorization.k8s.io/aggregate-to-admin": "true",
	}},
	Rules: []rbacv1.PolicyRule{{APIGroups: []string{resourcemetrics.GroupName}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}}},
}

// What controllers may do that upstream does not have, or runs with all rights.
var (
	ingressRole = controllerRole("ingress-controller",
		rbacv1.PolicyRule{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses"}, Verbs: []string{"get"}},
		rbacv1.PolicyRule{APIGroups: []string{"networking.k8s.io"}, Resources: []string{"ingresses/status"}, Verbs: []string{"patch", "update"}})
	tokenRole = controllerRole("serviceaccount-token-controller",
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "update", "delete"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"get", "update"}})
)

func controllerRole(name string, rules ...rbacv1.PolicyRule) rbacv1.ClusterRole {
	return rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:controller:" + name}, Rules: rules}
}

// controllerBinding gives a controller's role to the account of its name.
func controllerBinding(role rbacv1.ClusterRole) rbacv1.ClusterRoleBinding {
	return rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: strings.TrimPrefix(role.Name, "system:controller:"), Namespace: metav1.NamespaceSystem}},
	}
}

type role reconciliation.ReconcileRoleOptions

func (r role) run() error {
	o := reconciliation.ReconcileRoleOptions(r)
	if _, err := o.Run(); err != nil {
		return fmt.Errorf("role %s: %w", r.Role.GetName(), err)
	}
	return nil
}

type binding reconciliation.ReconcileRoleBindingOptions

func (b binding) run() error {
	o := reconciliation.ReconcileRoleBindingOptions(b)
	if _, err := o.Run(); err != nil {
		return fmt.Errorf("role binding %s: %w", b.RoleBinding.GetName(), err)
	}
	return nil
}
