package api

import (
	"k8s.io/kubernetes/pkg/probe"
	"k8s.io/kubernetes/pkg/registry/core/componentstatus"
)

// components are those that `kubectl get componentstatuses` lists, by upstream's names. Scheduler and controllers are this process,
// which ends when they do: as long as somebody is answered they run. The store's health is that of /healthz.
func (s *stores) components() map[string]componentstatus.Server {
	runs := component(func() error { return nil })
	return map[string]componentstatus.Server{"scheduler": runs, "controller-manager": runs, "etcd-0": component(s.db.Ready)}
}

// component says why a part of the control plane does not work, or nil.
type component func() error

func (c component) DoServerCheck() (probe.Result, string, error) {
	if err := c(); err != nil {
		return probe.Failure, "", err
	}
	return probe.Success, "ok", nil
}
