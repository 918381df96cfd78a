package main

import (
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// Recipe is one YAML file: layers by name, and the images that are put together from them.
type Recipe struct {
	Layers map[string]Layer `json:"layers"`
	Images []Image          `json:"images"`

	// dir is where the file lies; folders in it are named relative to it.
	dir string
}

// Layer is one layer of an image. Images that name the same layer share it byte by byte.
type Layer struct {
	Packages []string          `json:"packages,omitempty"` // Debian packages, without what they depend on
	Folder   string            `json:"folder,omitempty"`   // laid over the packages
	Programs map[string]string `json:"programs,omitempty"` // path in the image -> file under --programs
	Links    map[string]string `json:"links,omitempty"`    // path -> target
	Dirs     map[string]string `json:"dirs,omitempty"`     // path -> mode, octal
	Files    map[string]string `json:"files,omitempty"`    // path -> content
	Setuid   []string          `json:"setuid,omitempty"`   // programs that run as their owner
	Applets  bool              `json:"applets,omitempty"`  // a link to busybox for each of its applets
}

// Image is an archive with one image under one or more names.
type Image struct {
	Archive    string   `json:"archive"` // file name without .tar
	Names      []string `json:"names"`
	Layers     []string `json:"layers"`
	Platform   string   `json:"platform,omitempty"` // says this platform whatever is inside ("linux/arm64"): for tests
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Env        []string `json:"env,omitempty"`
	User       string   `json:"user,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	StopSignal string   `json:"stopSignal,omitempty"`
	Ports      []string `json:"ports,omitempty"`
	Volumes    []string `json:"volumes,omitempty"`
}

func readRecipe(path string) (*Recipe, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the recipe: %w", err)
	}
	r := &Recipe{dir: filepath.Dir(path)}
	if err := yaml.UnmarshalStrict(data, r); err != nil {
		return nil, fmt.Errorf("recipe %s: %w", path, err)
	}
	for _, img := range r.Images {
		for _, l := range img.Layers {
			if _, ok := r.Layers[l]; !ok {
				return nil, fmt.Errorf("recipe %s: image %s names layer %q, which is not there", path, img.Archive, l)
			}
		}
	}
	return r, nil
}

// packages are all Debian packages that the images need, each once.
func (r *Recipe) packages(images []Image) []string {
	var names []string
	seen := map[string]bool{}
	for _, img := range images {
		for _, l := range img.Layers {
			for _, p := range r.Layers[l].Packages {
				if !seen[p] {
					seen[p] = true
					names = append(names, p)
				}
			}
		}
	}
	return names
}

// choose gives the images of the named archives, or all.
func (r *Recipe) choose(archives []string) ([]Image, error) {
	if len(archives) == 0 {
		return r.Images, nil
	}
	var out []Image
	for _, name := range archives {
		found := false
		for _, img := range r.Images {
			if img.Archive == name {
				out, found = append(out, img), true
			}
		}
		if !found {
			return nil, fmt.Errorf("no image %q in the recipe", name)
		}
	}
	return out, nil
}
