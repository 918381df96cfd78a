package course

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"bramble.dev/test/hosts"
)

// asPod asks the API at its ClusterIP, from another host, with the token and the certificates that are mounted in a pod. (The pod
// itself has only busybox, which speaks no TLS of today; upstream's suite does the same from inside a pod.)
func asPod(pod, path, want string) action {
	return func(w *walk) error {
		const mounted = "exec %s -- cat /run/secrets/kubernetes.io/serviceaccount/%s"
		token, err := w.output(fmt.Sprintf(mounted, pod, "token"))
		if err != nil {
			return err
		}
		ca, err := w.output(fmt.Sprintf(mounted, pod, "ca.crt"))
		if err != nil {
			return err
		}
		file := filepath.Join(w.Cluster.Dir(), "pod-ca.crt")
		if err := os.WriteFile(file, []byte(ca), 0o600); err != nil {
			return err
		}
		out, err := w.Cluster.Hosts[1].Run(w.ctx, "sh", "-c", w.Cluster.Program("kubectl")+" --kubeconfig=/dev/null --server=https://10.43.0.1 --certificate-authority="+file+
			" --token="+token+" get --raw "+path+" 2>&1 || true")
		fmt.Fprintf(w.Out, "   GET https://10.43.0.1%s, with the pod's token\n%s\n", path, indent(head(strings.TrimSpace(out), 4)))
		if err != nil {
			return err
		}
		return match(out, []string{want})
	}
}

// sameNamespaces wants two containers of a pod to be in one IPC, one network and one UTS namespace.
func sameNamespaces(pod, a, b string) action {
	return func(w *walk) error {
		for _, kind := range []string{"ipc", "net", "uts"} {
			link := " -- readlink /proc/self/ns/" + kind
			of, err := w.output("exec " + pod + " -c " + a + link)
			if err != nil {
				return err
			}
			if err := kubectl("exec "+pod+" -c "+b+link, "^"+regexp.QuoteMeta(of)+"\\s*$")(w); err != nil {
				return err
			}
		}
		return nil
	}
}

// nodePort asks every node at a Service's port.
func nodePort(service, want string) action {
	return func(w *walk) error {
		port, err := w.output("get service " + service + " -o jsonpath={.spec.ports[0].nodePort}")
		if err != nil {
			return err
		}
		for _, h := range w.Cluster.Hosts {
			if err := onHost(0, "timeout 5 busybox wget -qO- http://"+h.IP.String()+":"+port+"/", want)(w); err != nil {
				return err
			}
		}
		return nil
	}
}

// external asks, from outside the cluster, at the address that a command prints, for a host if one is named.
func external(address, host, want string) action {
	return func(w *walk) error {
		ip, err := w.output(address)
		if err != nil {
			return err
		}
		fmt.Fprintf(w.Out, "   outside the cluster: GET http://%s/ (%s)\n", ip, host)
		return hosts.Eventually(w.ctx, 20*time.Second, func() error { return get("http://"+ip+"/", host, want) })
	}
}

func get(url, host, want string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Host = host
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return match(string(body), []string{want})
}

// everyPodReaches every other at its own address.
func everyPodReaches(selector, want string) action {
	return func(w *walk) error {
		names, err := w.output("get pods -l " + selector + " -o jsonpath={.items[*].metadata.name}")
		if err != nil {
			return err
		}
		addresses, err := w.output("get pods -l " + selector + " -o jsonpath={.items[*].status.podIP}")
		if err != nil {
			return err
		}
		for _, from := range strings.Fields(names) {
			for _, to := range strings.Fields(addresses) {
				if err := eventually("exec "+from+" -- timeout 5 wget -qO- http://"+to+"/", want)(w); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// reaches wants a pod to reach, or never to reach, the pods that a selector names.
func reaches(from, selector string, wanted bool) action {
	return func(w *walk) error {
		addresses, err := w.output("get pods -l " + selector + " -o jsonpath={.items[*].status.podIP}")
		if err != nil {
			return err
		}
		for _, to := range strings.Fields(addresses) {
			err := hosts.Eventually(w.ctx, 20*time.Second, func() error {
				_, err := w.output("exec " + from + " -- timeout 2 wget -qO- http://" + to + "/")
				if (err == nil) != wanted {
					return fmt.Errorf("%s reaches %s: %v", from, to, err == nil)
				}
				return nil
			})
			fmt.Fprintf(w.Out, "   %s reaches %s: %v\n", from, to, (err == nil) == wanted)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

var forwarding = regexp.MustCompile(`Forwarding from 127\.0\.0\.1:(\d+)`)

// forwarded asks a pod through a port of this machine.
func forwarded(pod, want string) action {
	return func(w *walk) error {
		cmd := exec.CommandContext(w.ctx, w.Cluster.Program("kubectl"), "port-forward", "pod/"+pod, ":80")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+w.Cluster.Kubeconfig)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		line := make([]byte, 200)
		n, err := out.Read(line)
		if err != nil {
			return fmt.Errorf("port-forward: %w", err)
		}
		found := forwarding.FindSubmatch(line[:n])
		if found == nil {
			return fmt.Errorf("port-forward says %q", line[:n])
		}
		w.show("kubectl", "port-forward pod/"+pod+" :80", string(line[:n]))
		return get("http://127.0.0.1:"+string(found[1])+"/", "", want)
	}
}

// copied copies a file into a pod and back.
func copied(pod string) action {
	return func(w *walk) error {
		there, back := filepath.Join(w.Cluster.Dir(), "there"), filepath.Join(w.Cluster.Dir(), "back")
		if err := os.WriteFile(there, []byte("copied there and back\n"), 0o600); err != nil {
			return err
		}
		if err := w.do([]action{kubectl("cp " + there + " " + pod + ":/tmp/file"), kubectl("cp " + pod + ":/tmp/file " + back)}); err != nil {
			return err
		}
		data, err := os.ReadFile(back)
		if err != nil {
			return err
		}
		return match(string(data), []string{"^copied there and back\n$"})
	}
}
