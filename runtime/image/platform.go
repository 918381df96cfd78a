package image

import (
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Platform is what an image was built for.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// normal gives the forms that images use for the same thing one form.
func (p Platform) normal() Platform {
	if p.OS == "" {
		p.OS = "linux"
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	case p.Architecture == "arm" && !strings.HasPrefix(p.Variant, "v"):
		p.Variant = "v" + p.Variant
	}
	return p
}

// Host is this machine's platform.
func Host() Platform {
	p := Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = armVariant()
	}
	return p.normal()
}

func armVariant() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "v7"
	}
	switch machine := unix.ByteSliceToString(u.Machine[:]); {
	case strings.HasPrefix(machine, "armv6"):
		return "v6"
	case strings.HasPrefix(machine, "armv5"):
		return "v5"
	}
	return "v7" // also a 32-bit system on a 64-bit kernel
}

// runs lists what a host runs, the best first.
func (p Platform) runs() []Platform {
	p = p.normal()
	list := []Platform{p}
	variants := []string{"v8", "v7", "v6", "v5"}
	switch p.Architecture {
	case "arm64":
		if aarch32() {
			for _, v := range variants {
				list = append(list, Platform{p.OS, "arm", v})
			}
		}
	case "amd64":
		list = append(list, Platform{OS: p.OS, Architecture: "386"})
	case "arm":
		if at := slices.Index(variants, p.Variant); at >= 0 {
			for _, v := range variants[at+1:] {
				list = append(list, Platform{p.OS, "arm", v})
			}
		}
	}
	return list
}

// aarch32 says whether a 64-bit ARM processor still runs 32-bit programs, which newer ones do not: the kernel then
// refuses the personality of such a program. A personality is a thread's.
func aarch32() bool {
	if runtime.GOARCH != "arm64" {
		return false
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const ask, linux32 = 0xffffffff, 0x0008
	old, _, errno := unix.Syscall(unix.SYS_PERSONALITY, ask, 0, 0)
	if errno != 0 {
		return false
	}
	_, _, errno = unix.Syscall(unix.SYS_PERSONALITY, linux32, 0, 0)
	_, _, _ = unix.Syscall(unix.SYS_PERSONALITY, old, 0, 0)
	return errno == 0
}

// best picks the platform of a list that the host runs best; -1 when there is none.
func (p Platform) best(have []Platform) int {
	for _, want := range p.runs() {
		for i, h := range have {
			if h = h.normal(); h.OS == want.OS && h.Architecture == want.Architecture && h.Variant == want.Variant {
				return i
			}
		}
	}
	return -1
}
