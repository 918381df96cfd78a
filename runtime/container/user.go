package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// User is whom a container's first process runs as.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // all, the first one included
}

// securityContext merges the container's and the pod's words about users.
type securityContext struct {
	user, group *int64
	nonRoot     bool
}

func merged(pod *corev1.Pod, c *corev1.Container) securityContext {
	var m securityContext
	set := func(user, group *int64, nonRoot *bool) {
		if user != nil {
			m.user = user
		}
		if group != nil {
			m.group = group
		}
		if nonRoot != nil {
			m.nonRoot = *nonRoot
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		set(sc.RunAsUser, sc.RunAsGroup, sc.RunAsNonRoot)
	}
	if sc := c.SecurityContext; sc != nil {
		set(sc.RunAsUser, sc.RunAsGroup, sc.RunAsNonRoot)
	}
	return m
}

// VerifyNonRoot applies runAsNonRoot, with the kubelet's words.
func VerifyNonRoot(pod *corev1.Pod, c *corev1.Container, imageUser string) error {
	m := merged(pod, c)
	if !m.nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: \"%s_%s(%s)\", container: %s)", pod.Name, pod.Namespace, pod.UID, c.Name)
	if m.user != nil {
		if *m.user == 0 {
			return configError("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	name, _, _ := strings.Cut(imageUser, ":")
	if name == "" {
		return configError("container has runAsNonRoot and image will run as root %s", where)
	}
	uid, err := strconv.ParseInt(name, 10, 64)
	switch {
	case err == nil && uid != 0 && len(validation.IsValidUserID(uid)) > 0:
		return configError("container has runAsNonRoot and image has an invalid user id (%d). (Must be 1-(%d)): %s %s", uid, math.MaxInt32,
			strings.Join(validation.IsValidUserID(uid), "; "), where)
	case err != nil:
		return configError("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, where)
	case uid == 0:
		return configError("container has runAsNonRoot and image will run as root %s", where)
	}
	return nil
}

// LookUp resolves the user in the image's own /etc/passwd and /etc/group.
func LookUp(root string, pod *corev1.Pod, c *corev1.Container, imageUser string) (User, error) {
	passwd, err := readIn(root, "etc/passwd")
	if err != nil {
		return User{}, err
	}
	group, err := readIn(root, "etc/group")
	if err != nil {
		return User{}, err
	}
	return resolve(passwd, group, pod, c, imageUser)
}

func resolve(passwd, group []byte, pod *corev1.Pod, c *corev1.Container, imageUser string) (User, error) {
	m := merged(pod, c)
	userName, groupName, hasGroup := strings.Cut(imageUser, ":")
	if m.user != nil { // the image's group is only the image's user's
		userName, hasGroup = strconv.FormatInt(*m.user, 10), false
	}
	var u User
	login, err := u.find(passwd, userName)
	if err != nil {
		return u, configError("container %q: image has user %q: %w", c.Name, imageUser, err)
	}
	if hasGroup && groupName != "" {
		if u.GID, err = groupID(group, groupName); err != nil {
			return u, configError("container %q: image has user %q: %w", c.Name, imageUser, err)
		}
	}
	if m.group != nil {
		u.GID = uint32(*m.group)
	}
	u.Groups = []uint32{u.GID}
	strict := false
	if sc := pod.Spec.SecurityContext; sc != nil {
		strict = sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
		for _, g := range sc.SupplementalGroups {
			u.Groups = append(u.Groups, uint32(g))
		}
		if sc.FSGroup != nil {
			u.Groups = append(u.Groups, uint32(*sc.FSGroup))
		}
	}
	if !strict && login != "" {
		u.Groups = append(u.Groups, memberships(group, login)...)
	}
	slices.Sort(u.Groups)
	u.Groups = slices.Compact(u.Groups)
	return u, nil
}

// find sets the user's numbers and returns its name; a number needs no entry.
func (u *User) find(passwd []byte, name string) (login string, err error) {
	if name == "" {
		name = "0"
	}
	number, numeric := strconv.ParseUint(name, 10, 31)
	for fields := range entries(passwd) {
		if len(fields) < 4 {
			continue
		}
		uid, err1 := strconv.ParseUint(fields[2], 10, 32)
		gid, err2 := strconv.ParseUint(fields[3], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		if (numeric == nil && uid == number) || (numeric != nil && fields[0] == name) {
			u.UID, u.GID = uint32(uid), uint32(gid)
			return fields[0], nil
		}
	}
	if numeric != nil {
		return "", fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	u.UID, u.GID = uint32(number), 0
	return "", nil
}

func groupID(group []byte, name string) (uint32, error) {
	number, numeric := strconv.ParseUint(name, 10, 31)
	if numeric == nil {
		return uint32(number), nil
	}
	for fields := range entries(group) {
		if len(fields) >= 3 && fields[0] == name {
			if gid, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
				return uint32(gid), nil
			}
		}
	}
	return 0, fmt.Errorf("unable to find group %s: no matching entries in group file", name)
}

func memberships(group []byte, login string) []uint32 {
	var list []uint32
	for fields := range entries(group) {
		if len(fields) < 4 || !slices.Contains(strings.Split(fields[3], ","), login) {
			continue
		}
		if gid, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			list = append(list, uint32(gid))
		}
	}
	return list
}

func entries(file []byte) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		lines := bufio.NewScanner(bytes.NewReader(file))
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' && !yield(strings.Split(line, ":")) {
				return
			}
		}
	}
}

// maxAccounts bounds what is read of an image's user files.
const maxAccounts = 1 << 20

// readIn reads a file of a container's root, following links as the container would. None is empty.
func readIn(root, name string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root + "/" + name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxAccounts))
}
