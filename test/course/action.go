package course

import (
	"fmt"
	"strings"
	"time"

	"bramble.dev/test/hosts"
)

// action is one thing that a reader of the course does and sees.
type action func(w *walk) error

// kubectl runs the built-in kubectl and wants its answer to match each pattern; one that begins with "!" must not.
func kubectl(args string, want ...string) action {
	return func(w *walk) error { return w.run(w.Cluster.Program("kubectl"), "kubectl", "", args, want) }
}

// old does the same with Debian's kubectl 1.20.
func old(args string, want ...string) action {
	return func(w *walk) error { return w.run(w.OldKubectl, "kubectl-1.20", "", args, want) }
}

// apply gives a manifest of the walk's own: what the course leaves to its reader.
func apply(manifest string, want ...string) action {
	return func(w *walk) error {
		fmt.Fprintf(w.Out, "%s\n", indent(strings.TrimSpace(manifest)))
		return w.run(w.Cluster.Program("kubectl"), "kubectl", manifest, "apply -f -", want)
	}
}

// eventually asks again until the answer matches, and shows the last.
func eventually(args string, want ...string) action { return within(patience, args, want...) }

func within(patience time.Duration, args string, want ...string) action {
	return func(w *walk) error {
		var out string
		err := hosts.Eventually(w.ctx, patience, func() (err error) {
			out, err = w.Cluster.KubectlWith(w.ctx, w.Cluster.Program("kubectl"), "", w.words(args)...)
			if err != nil {
				out += err.Error()
			}
			return match(out, want)
		})
		w.show("kubectl", args, out)
		return err
	}
}

// refused wants the built-in kubectl to fail, and its error to match.
func refused(args string, want ...string) action {
	return func(w *walk) error { return w.refuse(w.Cluster.Program("kubectl"), "kubectl", args, want) }
}

// oldRefused wants Debian's kubectl to fail.
func oldRefused(args string, want ...string) action {
	return func(w *walk) error { return w.refuse(w.OldKubectl, "kubectl-1.20", args, want) }
}

func (w *walk) refuse(program, name, args string, want []string) error {
	_, err := w.Cluster.KubectlWith(w.ctx, program, "", w.words(args)...)
	if err == nil {
		return fmt.Errorf("%s %s was not refused", name, args)
	}
	w.show(name, args, err.Error())
	return match(err.Error(), want)
}

// onHost runs a shell's command on a host until its output matches.
func onHost(i int, command string, want ...string) action {
	return func(w *walk) error {
		var out string
		err := hosts.Eventually(w.ctx, 20*time.Second, func() (err error) {
			if out, err = w.Cluster.Hosts[i].Run(w.ctx, "sh", "-c", command); err != nil {
				return err
			}
			return match(out, want)
		})
		fmt.Fprintf(w.Out, "   %s# %s\n%s\n", w.Cluster.Hosts[i].Name, command, indent(head(strings.TrimSpace(out), 12)))
		return err
	}
}

// bramble runs a command of Bramble's own on a host.
func bramble(i int, args string, want ...string) action {
	return func(w *walk) error {
		out, err := w.Cluster.Hosts[i].Run(w.ctx, append([]string{w.Cluster.Program("bramble")}, words(args)...)...)
		fmt.Fprintf(w.Out, "   %s# bramble %s\n%s\n", w.Cluster.Hosts[i].Name, args, indent(head(strings.TrimSpace(out), 12)))
		if err != nil {
			return err
		}
		return match(out, want)
	}
}
