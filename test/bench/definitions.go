package main

import (
	"fmt"
	"strings"
)

// definition is one of ten CustomResourceDefinitions, with what real ones have: a schema, a rule, subresources, columns.
const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
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
            properties:
              size: {type: integer, minimum: 0}
              color: {type: string, default: red}
            x-kubernetes-validations: [{rule: "self.size < 10 || self.color == 'blue'"}]
          status: {type: object, properties: {size: {type: integer}}}
---
`

// tenDefinitions are manifests of ten, and of an object of each.
func tenDefinitions() (definitions, objects string) {
	const count = 10
	for n := range count {
		group := fmt.Sprintf("bench%d.example.com", n)
		definitions += strings.ReplaceAll(definition, "GROUP", group)
		objects += fmt.Sprintf("apiVersion: %s/v1\nkind: Thing\nmetadata: {name: one, namespace: default}\nspec: {size: 1}\n---\n", group)
	}
	return definitions, objects
}

// definitions: what the server holds with ten of them and an object of each.
func (b *bench) definitions() error {
	all, objects := tenDefinitions()
	if err := b.c.Apply(b.ctx, all); err != nil {
		return err
	}
	if _, err := b.c.Kubectl(b.ctx, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"); err != nil {
		return err
	}
	if err := b.c.Apply(b.ctx, objects); err != nil {
		return err
	}
	if err := b.sleep(settleTime); err != nil {
		return err
	}
	server, err := usageOf(b.c.Server.Pid())
	if err != nil {
		return err
	}
	b.atMost("server with ten CustomResourceDefinitions, resident", 64, server.resident, "MiB", "")
	b.atMost("server with ten CustomResourceDefinitions, anonymous", 32, server.anonymous, "MiB", "")
	_, err = b.c.Kubectl(b.ctx, "delete", "crd", "--all", "--timeout=120s")
	return err
}
