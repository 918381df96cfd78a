package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debs downloads Debian packages once and reads their content.
type debs struct {
	dir  string // where the .deb files are kept
	arch string
}

// fetch downloads what is not there yet. apt checks the signatures of its lists, so nothing else is verified here.
func (d debs) fetch(packages []string) error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	args := []string{"download", "-q"}
	// apt drops its privileges to download, and the user _apt may not write here: stay root.
	args = append(args, "-o", "APT::Sandbox::User=root")
	for _, p := range packages {
		if d.path(p) == "" {
			args = append(args, p+":"+d.arch)
		}
	}
	if len(args) == 4 {
		return nil
	}
	cmd := exec.Command("apt-get", args...)
	cmd.Dir = d.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w\n%s", err, tail(out))
	}
	return nil
}

// path is the package's file, "" when it is not there.
func (d debs) path(pkg string) string {
	for _, arch := range []string{d.arch, "all"} {
		if m, _ := filepath.Glob(filepath.Join(d.dir, pkg+"_*_"+arch+".deb")); len(m) > 0 {
			return m[len(m)-1]
		}
	}
	return ""
}

// unpack adds the package's files to a tree.
func (d debs) unpack(t tree, pkg string) error {
	p := d.path(pkg)
	if p == "" {
		return fmt.Errorf("package %s was not downloaded", pkg)
	}
	cmd := exec.Command("dpkg-deb", "--fsys-tarfile", p)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("unpack %s: %w: %s", p, err, errs.String())
	}
	if err := t.tarball(bytes.NewReader(out)); err != nil {
		return fmt.Errorf("package %s: %w", pkg, err)
	}
	return nil
}

func tail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
