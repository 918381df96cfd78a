// Package probe asks containers how they are: by a command, HTTP, a TCP connection, or gRPC's
// health protocol.
//
// Invariant: a result belongs to one container ID, and is changed only after as many equal answers
// as the probe's thresholds ask for; nothing is written to the disk, however often a probe runs.
//
//	m := probe.New(probe.Config{Exec: rt.Exec, Changed: wake})
//	m.Set(pod, []probe.Target{{Container: c, ID: id, StartedAt: at, IP: ip}})
//	results := m.Results(pod.UID)
package probe

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Target is a running container with probes.
type Target struct {
	Container *corev1.Container
	ID        string
	IP        string
	StartedAt time.Time
	Started   bool // it passed its startup probe, also before a restart of the agent
	Adopted   bool // it ran before this agent did
}
