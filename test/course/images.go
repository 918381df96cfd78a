package course

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"bramble.dev/test/hosts"
)

// The account of the private registry.
const user, password = "course", "only for who knows"

// private starts a registry that asks for a password, and lets a pod pull from it with a Secret and without.
func private(w *walk) error {
	l, err := listen(w.Cluster.Lab)
	if err != nil {
		return err
	}
	defer l.Close()
	content := newRegistry()
	serve(l, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			rw.Header().Set("WWW-Authenticate", `Basic realm="the course"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		content.ServeHTTP(rw, r)
	}))
	ref := l.Addr().String() + "/private/busybox:1"
	if err := w.push("busybox", ref, &authn.Basic{Username: user, Password: password}); err != nil {
		return err
	}
	pod := func(name, secrets string) action {
		return apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [%s]
  containers: [{name: c, image: "%s", imagePullPolicy: Always, command: [sleep, "1000000"]}]
`, name, secrets, ref), "created")
	}
	return w.do([]action{
		kubectl("create secret docker-registry registry --docker-server=" + l.Addr().String() + " --docker-username=" + user + " '--docker-password=" + password + "'"),
		kubectl("get secret registry", "kubernetes.io/dockerconfigjson"),
		pod("without", ""),
		eventually("describe pod without", "ErrImagePull|ImagePullBackOff", "UNAUTHORIZED|401|nauthorized"),
		pod("with", "{name: registry}"),
		eventually("get pod with", "1/1 +Running"),
		kubectl("delete pod/with pod/without secret/registry", "deleted"),
	})
}

func (w *walk) archive(image string) (v1.Image, error) {
	return tarball.ImageFromPath(filepath.Join(w.Images, image+".tar"), nil)
}

func (w *walk) push(image, ref string, who authn.Authenticator) error {
	img, err := w.archive(image)
	if err != nil {
		return err
	}
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(tag, img, remote.WithContext(w.ctx), remote.WithAuth(who))
}

// Mirror is a registry that the hosts' agents ask in place of abroad.
type Mirror struct{ net.Listener }

// abroad is a registry that cannot be reached from here.
const abroad = "registry.abroad.example"

// StartMirror starts a mirror of abroad, in the root namespace. It ends when it is closed.
func StartMirror(lab *hosts.Lab) (*Mirror, error) {
	l, err := listen(lab)
	if err != nil {
		return nil, err
	}
	serve(l, newRegistry())
	return &Mirror{l}, nil
}

// AgentArgs make an agent use the mirror, and speak without TLS to registries at its address.
func (m *Mirror) AgentArgs() []string {
	host, _, _ := net.SplitHostPort(m.Addr().String())
	return []string{"--mirror", abroad + "=http://" + m.Addr().String(), "--insecure-registry", host}
}

// mirrored puts an image of abroad into the mirror.
func mirrored(image, as string) action {
	return func(w *walk) error {
		fmt.Fprintf(w.Out, "   the mirror gets %s/%s\n", abroad, as)
		return w.push(image, w.Mirror.Addr().String()+"/"+as, authn.Anonymous)
	}
}

func listen(lab *hosts.Lab) (net.Listener, error) { return net.Listen("tcp", lab.Root.String()+":0") }

func newRegistry() http.Handler { return registry.New(registry.Logger(log.New(io.Discard, "", 0))) }

// serve ends with its listener.
func serve(l net.Listener, h http.Handler) { go func() { _ = http.Serve(l, h) }() }

// carried imports an image on every host, from an archive under another name, as somebody does who carries it there.
func carried(image, as string) action {
	return func(w *walk) error {
		img, err := w.archive(image)
		if err != nil {
			return err
		}
		tag, err := name.NewTag(as)
		if err != nil {
			return err
		}
		path := filepath.Join(w.Cluster.Dir(), "carried.tar")
		if err := tarball.WriteToFile(path, tag, img); err != nil {
			return err
		}
		for i := range w.Cluster.Hosts {
			if err := bramble(i, "image import --data-dir "+hosts.DataDir+" "+path)(w); err != nil {
				return err
			}
		}
		return nil
	}
}

// Archives are the images that the course's manifests name, in a folder that scripts/images filled.
func Archives(folder string) []string {
	var out []string
	for _, archive := range []string{"busybox", "nginx", "nginx-new", "nginx-slim", "perl", "fluentd"} {
		out = append(out, filepath.Join(folder, archive+".tar"))
	}
	return out
}
