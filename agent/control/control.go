// Package control is the agent's door for the commands of its own board: `bramble image ...` speaks HTTP to it over a
// Unix socket that only root may open. It is needed because one process owns the images, and that is the agent.
//
//	go control.Serve(ctx, socket, images)
//	images, err := control.NewClient(socket).List(ctx)
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bramble.dev/runtime/image"
)

// Images are the images of this board.
type Images interface {
	Import(ctx context.Context, r io.Reader) ([]image.Image, error)
	Pull(ctx context.Context, ref string, o image.PullOptions) (image.Image, error)
	List() []image.Image
	Remove(ctx context.Context, ref string) error
}

// Socket is where the agent of a data folder listens.
func Socket(dataDir string) string { return filepath.Join(dataDir, "agent", "control.sock") }

const headerTimeout = 10 * time.Second

// Serve answers until ctx ends. A socket that a killed agent left is replaced: the agent holds the lock of its data
// folder, so nobody else listens there.
func Serve(ctx context.Context, socket string, images Images) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("control socket: %w", err)
	}
	s := &http.Server{Handler: Handler(images), ReadHeaderTimeout: headerTimeout, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Handler is what the socket serves.
func Handler(images Images) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /images", func(w http.ResponseWriter, _ *http.Request) { reply(w, images.List(), nil) })
	mux.HandleFunc("POST /images/import", func(w http.ResponseWriter, r *http.Request) {
		list, err := images.Import(r.Context(), r.Body)
		reply(w, list, err)
	})
	mux.HandleFunc("POST /images/pull", func(w http.ResponseWriter, r *http.Request) {
		ref := r.URL.Query().Get("name")
		if ref == "" {
			reply(w, nil, errors.New("no image is named"))
			return
		}
		one, err := images.Pull(r.Context(), ref, image.PullOptions{})
		reply(w, []image.Image{one}, err)
	})
	mux.HandleFunc("DELETE /images", func(w http.ResponseWriter, r *http.Request) {
		err := images.Remove(r.Context(), r.URL.Query().Get("name"))
		if errors.Is(err, fs.ErrNotExist) {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		reply(w, []image.Image{}, err)
	})
	return mux
}

func reply(w http.ResponseWriter, list []image.Image, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list) // a client that went away needs no answer
}

// ErrNoAgent says that nobody listens on the socket.
var ErrNoAgent = errors.New("no agent runs on this data folder")

// ErrNoImage says that the board has no image of that name.
var ErrNoImage = errors.New("no image")

// Client asks the agent of this board.
type Client struct{ http *http.Client }

// NewClient connects at each request.
func NewClient(socket string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", ErrNoAgent, err)
		}
		return conn, nil
	}}}}
}

// List gives the images that are present.
func (c *Client) List(ctx context.Context) ([]image.Image, error) {
	return c.do(ctx, http.MethodGet, "/images", nil)
}

// Import adds the images of an archive of `docker save` or of the OCI layout.
func (c *Client) Import(ctx context.Context, archive io.Reader) ([]image.Image, error) {
	return c.do(ctx, http.MethodPost, "/images/import", archive)
}

// Pull fetches an image from its registry or a mirror.
func (c *Client) Pull(ctx context.Context, ref string) ([]image.Image, error) {
	return c.do(ctx, http.MethodPost, "/images/pull?name="+url.QueryEscape(ref), nil)
}

// Remove removes a name, and with its last name the image. What is not there is ErrNoImage.
func (c *Client) Remove(ctx context.Context, ref string) error {
	_, err := c.do(ctx, http.MethodDelete, "/images?name="+url.QueryEscape(ref), nil)
	return err
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) ([]image.Image, error) {
	if body != nil {
		body = io.NopCloser(body) // the caller's file is the caller's to close
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if e := (&url.Error{}); errors.As(err, &e) {
			err = e.Err // the address is not one a user knows
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound && method == http.MethodDelete {
		return nil, ErrNoImage
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
		return nil, errors.New(strings.TrimRight(string(text), "\n")) // http.Error ends the line
	}
	var list []image.Image
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("the agent's answer: %w", err)
	}
	return list, nil
}
