package container

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nalice:x:1000:1001::/home:/bin/sh\n9999:x:55:66::/:\n"
	group  = "root:x:0:\nalice:x:1001:\nwheel:x:10:alice,root\nvideo:x:44:bob,alice\n"
)

func TestUsers(t *testing.T) {
	for _, tt := range []struct{ user, spec, want string }{
		{"", `{containers: [{name: c}]}`, "0:0 [0 10]"},
		{"alice", `{containers: [{name: c}]}`, "1000:1001 [10 44 1001]"},
		{"alice:wheel", `{containers: [{name: c}]}`, "1000:10 [10 44]"},
		{"1000", `{containers: [{name: c}]}`, "1000:1001 [10 44 1001]"},
		{"1000:7", `{containers: [{name: c}]}`, "1000:7 [7 10 44]"},
		{"7", `{containers: [{name: c}]}`, "7:0 [0]"},
		{"55", `{containers: [{name: c}]}`, "55:66 [66]"},
		{"mallory", `{containers: [{name: c}]}`, `error: container "c": image has user "mallory": unable to find user mallory: no matching entries in passwd file`},
		{"alice:none", `{containers: [{name: c}]}`, `error: container "c": image has user "alice:none": unable to find group none: no matching entries in group file`},
		{"alice", `{securityContext: {runAsUser: 5}, containers: [{name: c}]}`, "5:0 [0]"},
		{"alice", `{securityContext: {runAsUser: 5}, containers: [{name: c, securityContext: {runAsUser: 6, runAsGroup: 8}}]}`, "6:8 [8]"},
		{"alice", `{securityContext: {runAsGroup: 3, fsGroup: 9, supplementalGroups: [8, 9]}, containers: [{name: c}]}`, "1000:3 [3 8 9 10 44]"},
		{"alice", `{securityContext: {supplementalGroupsPolicy: Strict, supplementalGroups: [8]}, containers: [{name: c}]}`, "1000:1001 [8 1001]"},
	} {
		p := pod(tt.spec)
		u, err := resolve([]byte(passwd), []byte(group), p, &p.Spec.Containers[0], tt.user)
		got := fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.Groups)
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.want {
			t.Errorf("%q %s: %s, wanted %s", tt.user, tt.spec, got, tt.want)
		}
	}
}

func TestVerifyNonRoot(t *testing.T) {
	const where = ` (pod: "pod_default(1)", container: c)`
	for _, tt := range []struct{ user, spec, want string }{
		{"", `{containers: [{name: c}]}`, ""},
		{"", `{securityContext: {runAsNonRoot: true}, containers: [{name: c}]}`, "container has runAsNonRoot and image will run as root" + where},
		{"0:5", `{securityContext: {runAsNonRoot: true}, containers: [{name: c}]}`, "container has runAsNonRoot and image will run as root" + where},
		{"alice", `{securityContext: {runAsNonRoot: true}, containers: [{name: c}]}`, "container has runAsNonRoot and image has non-numeric user (alice), cannot verify user is non-root" + where},
		{"7", `{securityContext: {runAsNonRoot: true}, containers: [{name: c}]}`, ""},
		{"5000000000:1", `{securityContext: {runAsNonRoot: true}, containers: [{name: c}]}`,
			"container has runAsNonRoot and image has an invalid user id (5000000000). (Must be 1-(2147483647)): must be between 0 and 2147483647, inclusive" + where},
		{"", `{securityContext: {runAsNonRoot: true}, containers: [{name: c, securityContext: {runAsUser: 3}}]}`, ""},
		{"7", `{containers: [{name: c, securityContext: {runAsUser: 0, runAsNonRoot: true}}]}`, "container's runAsUser breaks non-root policy" + where},
		{"", `{securityContext: {runAsNonRoot: true}, containers: [{name: c, securityContext: {runAsNonRoot: false}}]}`, ""},
	} {
		p := pod(tt.spec)
		got := ""
		if err := VerifyNonRoot(p, &p.Spec.Containers[0], tt.user); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q %s: %s, wanted %s", tt.user, tt.spec, got, tt.want)
		}
	}
}

// TestReadIn follows links as a container would, and not out of it.
func TestReadIn(t *testing.T) {
	outer := t.TempDir()
	root := filepath.Join(outer, "root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(outer, "secret"), []byte("outside"), 0o600)
	_ = os.WriteFile(filepath.Join(root, "real"), []byte("inside"), 0o600)
	for to, want := range map[string]string{"/real": "inside", "../real": "inside", "../../secret": "", "/proc/self/environ": "", "nowhere": ""} {
		_ = os.Remove(filepath.Join(root, "etc/passwd"))
		if err := os.Symlink(to, filepath.Join(root, "etc/passwd")); err != nil {
			t.Fatal(err)
		}
		if got, err := readIn(root, "etc/passwd"); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", to, got, err)
		}
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte(passwd), []byte(group), "alice:wheel")
	f.Fuzz(func(t *testing.T, passwd, group []byte, user string) {
		p := pod(`{securityContext: {supplementalGroups: [5]}, containers: [{name: c}]}`)
		u, err := resolve(passwd, group, p, &p.Spec.Containers[0], user)
		if err == nil && len(u.Groups) == 0 {
			t.Error("no groups")
		}
	})
}
