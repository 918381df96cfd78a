package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/test/hosts"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties: {size: {type: integer, minimum: 0, description: How many of them.}}
            x-kubernetes-validations: [{rule: self.size < 10, message: ten are too many}]
          status: {type: object, properties: {size: {type: integer}}}
`

// A definition makes a kind like any other: kubectl knows it, objects own objects of built-in kinds and are owned by them, roles, quotas
// and the deletion of a namespace count it, and a restart changes none of that.
func TestCustomResources(t *testing.T) {
	c := start(t, 1, hosts.ClusterOptions{Images: []string{image("nginx")}})
	c.kubectl("create", "deployment", "bystander", "--image=nginx:1.7.9", "--replicas=2")
	before := names(c.ready("app=bystander", 2, time.Minute))
	defer func() { // nothing that happens to definitions is any of its business
		time.Sleep(2 * time.Second) // longer than the garbage collector waits
		if after := names(c.ready("app=bystander", 2, time.Minute)); after != before {
			t.Errorf("the pods of a Deployment were %s, now %s", before, after)
		}
	}()
	c.apply(widgets)
	c.eventually(time.Minute, "the definitions are established", func() error {
		// kubectl wait gives up at once on a definition that has no conditions yet: they are null then, upstream's as well.
		_, err := c.Kubectl(c.ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
		return err
	})
	c.apply(owned("Widget", "first", ""))
	for _, wrong := range []struct{ manifest, want string }{
		{"apiVersion: shop.example.com/v1\nkind: Widget\nmetadata: {name: bad}\nspec: {size: 11}", "ten are too many"},
		{"apiVersion: shop.example.com/v1\nkind: Widget\nmetadata: {name: bad}\nspec: {sise: 1}", `unknown field "spec.sise"`},
		{"apiVersion: shop.example.com/v1\nkind: Gadget\nmetadata: {name: bad}", `no matches for kind "Gadget" in version "shop.example.com/v1"`},
	} {
		if err := c.Apply(c.ctx, wrong.manifest); err == nil || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("no %q in %v", wrong.want, err)
		}
	}
	c.kubectl("scale", "--replicas=5", "widget/first")
	for _, asked := range []struct{ want, args string }{
		{"How many of them.", "explain widget.spec.size"}, {"SIZE", "get wd"}, {"widget.shop.example.com/first", "get all"}, {"true", "api-resources --api-group=shop.example.com"},
		{"5", "get widget first -o jsonpath={.spec.size}"},
	} {
		if out := c.kubectl(strings.Fields(asked.args)...); !strings.Contains(out, asked.want) {
			t.Errorf("kubectl %s: no %q in %s", asked.args, asked.want, out)
		}
	}
	c.ownersAndOwned(t)
	if err := c.RestartServer(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.ownersAndOwned(t)

	c.kubectl("create", "namespace", "shop")
	c.kubectl("create", "quota", "few", "--hard=count/widgets.shop.example.com=1", "-n", "shop")
	c.eventually(30*time.Second, "the quota counts", func() error {
		out, err := c.KubectlWith(c.ctx, c.Program("kubectl"), owned("Widget", "one", ""), "apply", "-n", "shop", "-f", "-")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		_, err = c.KubectlWith(c.ctx, c.Program("kubectl"), owned("Widget", "two", ""), "apply", "--dry-run=server", "-n", "shop", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), "exceeded quota") {
			return fmt.Errorf("a second one: %v", err)
		}
		return nil
	})
	c.kubectl("delete", "namespace", "shop", "--timeout=60s")
	c.kubectl("delete", "crd", "--all", "--timeout=60s")
	if out := c.kubectl("api-resources", "-o", "name"); strings.Contains(out, "shop.example.com") {
		t.Errorf("still served: %s", out)
	}
}

// owned is a Widget or a ConfigMap that belongs to an owner, given as the inside of a reference.
func owned(kind, name, owner string) string {
	version, spec := "v1", ""
	if kind == "Widget" {
		version, spec = "shop.example.com/v1", "\nspec: {size: 1}"
	}
	if owner != "" {
		owner = ", ownerReferences: [" + owner + "]"
	}
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s%s}%s", version, kind, name, owner, spec)
}

// ownersAndOwned deletes owners and sees that what belongs to them follows, from a built-in kind to the defined one and back.
func (c *cluster) ownersAndOwned(t *testing.T) {
	t.Helper()
	for _, kinds := range [][2]string{{"Widget", "ConfigMap"}, {"ConfigMap", "Widget"}} {
		c.apply(owned(kinds[0], "owner", ""))
		version, uid, _ := strings.Cut(c.kubectl("get", kinds[0], "owner", "-o", "jsonpath={.apiVersion} {.metadata.uid}"), " ")
		c.apply(owned(kinds[1], "dependent", fmt.Sprintf("{apiVersion: %s, kind: %s, name: owner, uid: %s}", version, kinds[0], uid)))
		c.kubectl("delete", kinds[0], "owner")
		c.eventually(30*time.Second, kinds[1]+" goes with its "+kinds[0], func() error {
			if out, err := c.Kubectl(c.ctx, "get", kinds[1], "dependent", "--ignore-not-found", "-o", "name"); err != nil || strings.TrimSpace(out) != "" {
				return fmt.Errorf("%s is still there (%v)", out, err)
			}
			return nil
		})
	}
}

func names(pods []corev1.Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
