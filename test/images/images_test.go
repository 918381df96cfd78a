package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestTreeIsTheSameOnAnyDay(t *testing.T) {
	make := func(order []string) []byte {
		tr := tree{}
		for _, name := range order {
			tr.file(name, 0o644, []byte(name))
		}
		tr.link("bin/sh", "/bin/busybox")
		data, err := tr.bytes()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	a, b := make([]string{"usr/a", "etc/b"}), make([]string{"etc/b", "usr/a"})
	if !bytes.Equal(a, b) {
		t.Error("the order of insertion shows in the archive")
	}
	want := "bin/ bin/sh etc/ etc/b usr/ usr/a"
	if got := strings.Join(entryNames(t, a), " "); got != want {
		t.Errorf("entries: %s, want %s", got, want)
	}
}

func TestDocumentationIsDropped(t *testing.T) {
	for name, want := range map[string]bool{"./usr/share/doc/perl/README": true, "./usr/share/man/": true, "./usr/share/perl/5.36/x.pm": false, "./lib/systemd/system/x.service": true} {
		if got := unwanted(name); got != want {
			t.Errorf("unwanted(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestRecipesName(t *testing.T) {
	for _, file := range []string{"demo.yaml", "conformance.yaml"} {
		r, err := readRecipe(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.choose([]string{"no-such-image"}); err == nil {
			t.Errorf("%s: an unknown archive was accepted", file)
		}
		all, err := r.choose(nil)
		if err != nil || len(all) == 0 {
			t.Errorf("%s: %d images, %v", file, len(all), err)
		}
	}
}

func entryNames(t *testing.T, data []byte) []string {
	t.Helper()
	var names []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
