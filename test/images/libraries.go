package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"sort"
	"strings"
)

// missingLibraries names the shared libraries that programs of the image want and that no layer has. Packages are
// listed without what they depend on, so this is what notices a forgotten one before a container fails to start.
func missingLibraries(layers []tree) []string {
	have := map[string]bool{}
	for _, t := range layers {
		for name := range t {
			have[path.Base(name)] = true
		}
	}
	wanted := map[string]string{}
	for _, t := range layers {
		for name, e := range t {
			if !bytes.HasPrefix(e.data, []byte(elf.ELFMAG)) {
				continue
			}
			f, err := elf.NewFile(bytes.NewReader(e.data))
			if err != nil {
				continue
			}
			libs, _ := f.ImportedLibraries()
			for _, l := range libs {
				if !have[l] && !strings.HasPrefix(l, "ld-linux") {
					wanted[l] = name
				}
			}
		}
	}
	var out []string
	for lib, by := range wanted {
		out = append(out, fmt.Sprintf("%s (wanted by /%s)", lib, by))
	}
	sort.Strings(out)
	return out
}
