// Package sandbox keeps what must be remembered of a pod's sandbox and its containers while the agent is not running:
// a folder a sandbox, a folder in it for each container.
//
//	<dir>/<sandbox>/sandbox.json
//	<dir>/<sandbox>/<container>/container.json   by the agent
//	<dir>/<sandbox>/<container>/exit             by the shim: exit code and times, on the disk before it is relied on
//
// The invariant: a folder without a readable sandbox.json is nobody's, and is swept; so it is written first, and the
// folder is renamed before it is removed. Records are not synced: after a pulled plug the sandbox is gone anyway.
//
//	dir, err := sandbox.Open(path)
//	err = dir.Save(sandbox.Record{ID: id, ...})
//	all, err := dir.Load()
package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/runtime/cgroup"
	"bramble.dev/runtime/container"
)

// Record is a sandbox.
type Record struct {
	ID         string    `json:"id"`
	UID        types.UID `json:"uid"`
	Namespace  string    `json:"namespace"`
	Name       string    `json:"name"`
	Attempt    uint32    `json:"attempt"`
	CreatedAt  time.Time `json:"createdAt"`
	BootID     string    `json:"bootID"`
	Hostname   string    `json:"hostname"`
	NetNS      string    `json:"netns,omitempty"`
	ResolvConf string    `json:"resolvConf,omitempty"`
	HostsFile  string    `json:"hostsFile,omitempty"`
	Cgroup     string    `json:"cgroup"`              // name below the tree's parent
	SharedPID  bool      `json:"sharedPID,omitempty"` // containers have no process namespace of their own
	HostIPC    bool      `json:"hostIPC,omitempty"`
	Given
	Containers []Container `json:"-"`
}

// Given is what a cgroup was given, and what it held right after that.
type Given struct {
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"` // nil in records of older agents
	Held      cgroup.Limits                `json:"held,omitzero"`
}

// Container is a container of a sandbox.
type Container struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Attempt    uint32    `json:"attempt"`
	Image      string    `json:"image"`
	ImageID    string    `json:"imageID"`
	SpecHash   string    `json:"specHash"`
	LogPath    string    `json:"logPath"`
	Layers     []string  `json:"layers,omitempty"`
	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	StopSignal string    `json:"stopSignal,omitempty"`
	// User is known once the image is mounted; containers of older agents lack it.
	User         *container.User `json:"user,omitempty"`
	TTY          bool            `json:"tty,omitempty"`
	Stdin        bool            `json:"stdin,omitempty"`
	StdinOnce    bool            `json:"stdinOnce,omitempty"`
	FallbackLogs bool            `json:"fallbackLogs,omitempty"` // the message may be the end of the log
	Given

	Exit *Exit `json:"exit,omitempty"` // set when everything that the container held has been given back
}

// Exit is how a container ended.
type Exit struct {
	Code       int32     `json:"code"`
	OOM        bool      `json:"oom,omitempty"`
	Failed     bool      `json:"failed,omitempty"` // it never began
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt"`
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`
}

// Dir is the folder of all sandboxes.
type Dir struct{ path string }

// Open makes the folder if need be.
func Open(path string) (Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return Dir{}, fmt.Errorf("open sandboxes: %w", err)
	}
	return Dir{path}, nil
}

// Sandbox is a sandbox's folder.
func (d Dir) Sandbox(id string) string { return filepath.Join(d.path, id) }

// Container is a container's folder.
func (d Dir) Container(sandbox, id string) string { return filepath.Join(d.path, sandbox, id) }

// ExitFile is where the shim writes a container's exit code.
func (d Dir) ExitFile(sandbox, id string) string { return filepath.Join(d.path, sandbox, id, "exit") }

// Save writes a sandbox's record, and makes its folder.
func (d Dir) Save(r Record) error {
	return save(d.Sandbox(r.ID), "sandbox.json", r)
}

// SaveContainer writes a container's record, and makes its folder.
func (d Dir) SaveContainer(sandbox string, c Container) error {
	return save(d.Container(sandbox, c.ID), "container.json", c)
}

func save(dir, file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("save %s: %w", file, err)
	}
	tmp := filepath.Join(dir, "."+file)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("save %s: %w", file, err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, file)); err != nil {
		return fmt.Errorf("save %s: %w", file, err)
	}
	return nil
}

const gone = "gone-"

// Remove removes a sandbox's folder.
func (d Dir) Remove(id string) error { return remove(d.Sandbox(id)) }

// RemoveContainer removes a container's folder.
func (d Dir) RemoveContainer(sandbox, id string) error { return remove(d.Container(sandbox, id)) }

func remove(dir string) error {
	hidden := filepath.Join(filepath.Dir(dir), gone+filepath.Base(dir))
	if err := os.Rename(dir, hidden); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	if err := os.RemoveAll(hidden); err != nil {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// Load reads all sandboxes with their containers, and removes folders that are nobody's.
func (d Dir) Load() ([]Record, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("load sandboxes: %w", err)
	}
	var all []Record
	for _, e := range entries {
		dir := filepath.Join(d.path, e.Name())
		var r Record
		if err := load(filepath.Join(dir, "sandbox.json"), &r); err != nil || r.ID != e.Name() || strings.HasPrefix(e.Name(), gone) {
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("sweep %s: %w", dir, err)
			}
			continue
		}
		inner, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("load sandbox %s: %w", r.ID, err)
		}
		for _, c := range inner {
			if !c.IsDir() {
				continue
			}
			var rec Container
			if err := load(filepath.Join(dir, c.Name(), "container.json"), &rec); err != nil || rec.ID != c.Name() {
				if err := os.RemoveAll(filepath.Join(dir, c.Name())); err != nil {
					return nil, fmt.Errorf("sweep %s: %w", dir, err)
				}
				continue
			}
			r.Containers = append(r.Containers, rec)
		}
		all = append(all, r)
	}
	return all, nil
}

func load(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
