package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"bramble.dev/test/hosts"
)

// deployment starts count sleeping pods and waits until all are ready. probe is YAML of the container, or empty.
func (b *bench) deployment(name string, count int, probe string) error {
	err := b.c.Apply(b.ctx, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"]%[3]s}]
`, name, count, probe))
	if err != nil {
		return err
	}
	return hosts.Eventually(b.ctx, 5*time.Minute, func() error {
		out, err := b.c.Kubectl(b.ctx, "get", "deployment", name, "-o", "jsonpath={.status.readyReplicas}")
		if err == nil && out != strconv.Itoa(count) {
			err = fmt.Errorf("%s of %d pods are ready", out, count)
		}
		return err
	})
}

func (b *bench) remove(name string) error {
	if _, err := b.c.Kubectl(b.ctx, "delete", "deployment", name); err != nil {
		return err
	}
	return hosts.Eventually(b.ctx, 3*time.Minute, func() error {
		out, err := b.c.Kubectl(b.ctx, "get", "pods", "-l", "app="+name, "-o", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("%d pods are left", strings.Count(out, "\n"))
		}
		return err
	})
}

// podStart: from `kubectl create` to Running, the median of several, beside a bare `runc run` of the same image.
func (b *bench) podStart() error {
	var took []float64
	for i := range 7 {
		d, err := b.onePod(fmt.Sprintf("start-%d", i))
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	bare, err := b.bareRunc()
	if err != nil {
		return fmt.Errorf("bare runc: %w", err)
	}
	b.atMost("pod created until its container runs, median of 7", 2*bare, median(took), "s", "0.60 (once, Ready)")
	b.rows = append(b.rows, row{what: "bare runc run of the same image, median of 7", measured: number(bare) + " s"})
	return nil
}

// onePod measures from the moment the API has acknowledged the pod until a watch says that it runs.
func (b *bench) onePod(name string) (float64, error) {
	manifest := fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"]}]}}`, name)
	client, err := b.client()
	if err != nil {
		return 0, err
	}
	d, err := untilRunning(b.ctx, client, manifest)
	if err != nil {
		return 0, err
	}
	_, err = b.c.Kubectl(b.ctx, "delete", "pod", name, "--grace-period=0", "--force")
	return d.Seconds(), err
}

// bareBundle unpacks the image into a bundle for runc alone, which runs command.
func (b *bench) bareBundle(name, command string) (string, error) {
	dir := filepath.Join(b.disk.mount, name)
	prepare := `mkdir -p "$1/rootfs" && cd "$1" && tar xf "$2" && for l in *.tar.gz; do tar xzf "$l" -C rootfs; done && "$3/runc" spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sh", "-c", "'"$4"'"/' config.json`
	archive, err := filepath.Abs(filepath.Join(b.o.images, "busybox.tar"))
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("sh", "-c", prepare, "sh", dir, archive, b.bin, command).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
}

// bareRunc runs true in the image's root with runc alone.
func (b *bench) bareRunc() (float64, error) {
	dir, err := b.bareBundle("bare-run", "true")
	if err != nil {
		return 0, err
	}
	var took []float64
	for i := range 7 {
		began := time.Now()
		if out, err := exec.Command(filepath.Join(b.bin, "runc"), "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, fmt.Sprintf("bench-%d", i)).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		took = append(took, time.Since(began).Seconds())
	}
	return median(took), nil
}

func median(v []float64) float64 {
	sort.Float64s(v)
	return v[len(v)/2]
}
