package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"bramble.dev/mesh/nft"
)

// Options are fixed for a Firewall's life.
type Options struct {
	Instance string
	Bridge   string
	Tunnel   string
	Table    string // our own nftables table, which drops nothing that we want
	Logger   *slog.Logger
	Chains   func() ([]nft.Hooked, error) // nft.Conn.BaseChains
	Enter    func(func() error) error     // runs programs where the host's network is
}

// Config is what may change.
type Config struct {
	TunnelPort   uint16 // of UDP; 0: there is no tunnel
	AnnouncePort uint16 // of UDP; 0: nothing is announced
}

// Firewall mends the host's firewall.
type Firewall struct {
	Options
	mu   sync.Mutex
	said map[string]bool
}

// Open makes a Firewall; it changes nothing.
func Open(o Options) *Firewall { return &Firewall{Options: o, said: map[string]bool{}} }

// Set looks for policies that drop and mends them.
func (f *Firewall) Set(ctx context.Context, c Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	hooked, err := f.Chains()
	if err != nil {
		return fmt.Errorf("look for rules that drop: %w", err)
	}
	n := namesOf(f.Instance)
	var errs []error
	for _, program := range f.backends(hooked) {
		errs = append(errs, f.mend(ctx, program, func(r ruleset) map[string][]string {
			return wanted(r, n, f.Bridge, f.Tunnel, c.TunnelPort, c.AnnouncePort)
		}))
	}
	f.name(hooked)
	return errors.Join(errs...)
}

// backends are the iptables programs whose tables are in use. To ask the others would make their
// tables.
func (f *Firewall) backends(hooked []nft.Hooked) []string {
	var out []string
	if slices.ContainsFunc(hooked, iptablesNFT) {
		out = append(out, first("iptables-nft", "iptables"))
	}
	err := f.Enter(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
		if err == nil && slices.Contains(strings.Fields(string(b)), "filter") {
			out = append(out, first("iptables-legacy", "iptables"))
		}
		return nil // a kernel without the file has no such tables
	})
	if err != nil {
		f.Logger.Warn("look for iptables' tables", "err", err)
	}
	return slices.Compact(slices.DeleteFunc(out, func(p string) bool { return p == "" }))
}

// iptablesNFT says whether a chain is one that iptables keeps in nftables.
func iptablesNFT(h nft.Hooked) bool {
	return !h.IsInet && h.Table == "filter" && (h.Chain == "FORWARD" || h.Chain == "INPUT")
}

func first(names ...string) string {
	for _, n := range names {
		for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
			if p, err := exec.LookPath(dir + n); err == nil {
				return p
			}
		}
	}
	return ""
}

// mend brings one iptables to what want asks of it.
func (f *Firewall) mend(ctx context.Context, program string, want func(ruleset) map[string][]string) error {
	out, err := f.run(ctx, program, "-S")
	if err != nil {
		return err
	}
	n := namesOf(f.Instance)
	r := parse(out)
	w := want(r)
	var errs []error
	for _, cmd := range plan(r, n, w) {
		if _, err := f.run(ctx, program, strings.Fields(cmd)...); err != nil {
			errs = append(errs, err)
		}
	}
	for _, chain := range []string{docker, n.forward, n.input} {
		if w[chain] != nil {
			f.say(slog.LevelInfo, "the host's firewall drops packets of pods by its policy; rules of ours let them through", "program", program, "chain", chain, "rules", strings.Join(w[chain], "; "))
		}
	}
	return errors.Join(errs...)
}

// name tells of what drops and is not iptables': we do not write into somebody's nftables.
func (f *Firewall) name(hooked []nft.Hooked) {
	for _, h := range hooked {
		if !h.Drops || h.Type != "filter" || h.IsInet && h.Table == f.Table || h.Hook != nft.Forward && h.Hook != nft.Input {
			continue
		}
		if iptablesNFT(h) && first("iptables-nft", "iptables") != "" {
			continue
		}
		family := "ip"
		if h.IsInet {
			family = "inet"
		}
		chain := strings.Join([]string{family, h.Table, h.Chain}, " ")
		f.say(slog.LevelWarn, "an nftables chain of this host drops packets of pods by its policy", "chain", chain,
			"remedy", fmt.Sprintf("nft insert rule %s iifname { %s, %s } accept; nft insert rule %s oifname { %s, %s } accept (and the same in /etc/nftables.conf)", chain, f.Bridge, f.Tunnel, chain, f.Bridge, f.Tunnel))
	}
}

// say logs once what stays true.
func (f *Firewall) say(level slog.Level, msg string, args ...any) {
	key := fmt.Sprint(append([]any{msg}, args...)...)
	if !f.said[key] {
		f.said[key] = true
		f.Logger.Log(context.Background(), level, msg, args...)
	}
}

func (f *Firewall) run(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var out []byte
	err := f.Enter(func() error {
		var err error
		out, err = exec.CommandContext(ctx, program, append([]string{"-w", "5"}, args...)...).CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Teardown removes what Set added.
func (f *Firewall) Teardown(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	hooked, err := f.Chains()
	if err != nil {
		return fmt.Errorf("look for rules of ours: %w", err)
	}
	var errs []error
	for _, program := range f.backends(hooked) {
		errs = append(errs, f.mend(ctx, program, func(ruleset) map[string][]string { return nil }))
	}
	clear(f.said)
	return errors.Join(errs...)
}
