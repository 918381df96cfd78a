package container

import (
	"encoding/json"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// linuxSpec is specs.Spec without the parts of other systems. What encoding/json learns of a type, and of all that it can
// hold, it keeps for good: for those parts 55 KiB of an agent's 8 MiB.
type linuxSpec struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process,omitempty"`
	Root        *specs.Root       `json:"root,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Domainname  string            `json:"domainname,omitempty"`
	Mounts      []specs.Mount     `json:"mounts,omitempty"`
	Hooks       *specs.Hooks      `json:"hooks,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Linux       *specs.Linux      `json:"linux,omitempty"`
}

// Encode is the specification as a bundle's config.json has it.
func Encode(s *specs.Spec) ([]byte, error) {
	return json.Marshal(linuxSpec{s.Version, s.Process, s.Root, s.Hostname, s.Domainname, s.Mounts, s.Hooks, s.Annotations, s.Linux})
}
