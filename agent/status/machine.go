package status

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Look finds out what the board is; dir is the agent's folder.
func Look(dir string) Machine {
	m := Machine{
		CPUs: runtime.NumCPU(), Architecture: runtime.GOARCH,
		MachineID: line("/etc/machine-id"), BootID: line("/proc/sys/kernel/random/boot_id"), Kernel: line("/proc/sys/kernel/osrelease"),
		SystemUUID: line("/sys/class/dmi/id/product_uuid"), OSImage: osImage(), HugePages: map[string]int64{},
	}
	if m.SystemUUID == "" { // ARM boards have none; a serial number is as good
		m.SystemUUID = strings.TrimRight(line("/proc/device-tree/serial-number"), "\x00")
	}
	if m.SystemUUID == "" {
		m.SystemUUID = m.MachineID
	}
	memory := Meminfo()
	m.MemoryBytes, m.SwapBytes = memory["MemTotal"], memory["SwapTotal"]
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil {
		m.DiskBytes = int64(fs.Blocks) * int64(fs.Bsize)
	}
	sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, path := range sizes {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "hugepages-"), "kB"), 10, 64)
		n, _ := strconv.ParseInt(line(filepath.Join(path, "nr_hugepages")), 10, 64)
		if err == nil {
			m.HugePages["hugepages-"+binarySize(kb)] = n * kb << 10
		}
	}
	return m
}

func binarySize(kb int64) string {
	switch {
	case kb >= 1<<20 && kb%(1<<20) == 0:
		return strconv.FormatInt(kb>>20, 10) + "Gi"
	case kb >= 1<<10 && kb%(1<<10) == 0:
		return strconv.FormatInt(kb>>10, 10) + "Mi"
	}
	return strconv.FormatInt(kb, 10) + "Ki"
}

func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(first)
}

func osImage() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

// Meminfo reads /proc/meminfo, in bytes.
func Meminfo() map[string]int64 {
	out := map[string]int64{}
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return out
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			continue
		}
		if len(fields) > 1 && fields[1] == "kB" {
			n <<= 10
		}
		out[name] = n
	}
	return out
}
