package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bramble.dev/runtime/image"
)

type fake struct{ names []string }

func (f *fake) Import(_ context.Context, r io.Reader) ([]image.Image, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if string(b) == "torn" {
		return nil, errors.New("archive: unexpected end: copy the file again")
	}
	f.names = append(f.names, string(b))
	return []image.Image{{Names: []string{string(b)}}}, nil
}

func (f *fake) Pull(_ context.Context, ref string, _ image.PullOptions) (image.Image, error) {
	f.names = append(f.names, ref)
	return image.Image{Names: []string{ref}}, nil
}

func (f *fake) List() []image.Image {
	var list []image.Image
	for _, n := range f.names {
		list = append(list, image.Image{Names: []string{n}})
	}
	return list
}

func (f *fake) Remove(_ context.Context, ref string) error {
	for i, n := range f.names {
		if n == ref {
			f.names = append(f.names[:i], f.names[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("remove image %s: %w", ref, fs.ErrNotExist)
}

func TestControl(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := NewClient(socket)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := c.List(ctx); !errors.Is(err, ErrNoAgent) {
		t.Fatalf("without an agent: %v", err)
	}
	ended := make(chan error)
	go func() { ended <- Serve(ctx, socket, &fake{}) }()
	for began := time.Now(); ; {
		if _, err := c.List(ctx); err == nil {
			break
		} else if time.Since(began) > 10*time.Second {
			t.Fatal(err)
		}
	}
	if list, err := c.Import(ctx, strings.NewReader("nginx")); err != nil || len(list) != 1 || list[0].Names[0] != "nginx" {
		t.Fatalf("import: %v, %v", list, err)
	}
	if _, err := c.Import(ctx, strings.NewReader("torn")); err == nil || err.Error() != "archive: unexpected end: copy the file again" {
		t.Fatalf("import of a torn archive: %v", err)
	}
	if _, err := c.Pull(ctx, "a/b:c"); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(ctx, "nginx"); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(ctx, "nginx"); !errors.Is(err, ErrNoImage) {
		t.Fatalf("removed twice: %v", err)
	}
	if list, err := c.List(ctx); err != nil || len(list) != 1 || list[0].Names[0] != "a/b:c" {
		t.Fatalf("list: %v, %v", list, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
