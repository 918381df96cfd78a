package firewall

import (
	"slices"
	"strconv"
	"strings"
)

// docker is the chain that Docker leaves to the host's administrator, and looks into first.
const docker = "DOCKER-USER"

// ruleset is what `iptables -S` prints.
type ruleset struct {
	policies map[string]string
	chains   map[string][]string // rules without "-A chain "
}

// add makes a chain known, whether or not it has rules.
func (r ruleset) add(chain string) {
	if _, ok := r.chains[chain]; !ok {
		r.chains[chain] = nil
	}
}

func parse(out string) ruleset {
	r := ruleset{policies: map[string]string{}, chains: map[string][]string{}}
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) >= 3 && f[0] == "-P":
			r.policies[f[1]] = f[2]
			r.add(f[1])
		case len(f) >= 2 && f[0] == "-N":
			r.add(f[1])
		case len(f) >= 2 && f[0] == "-A":
			r.chains[f[1]] = append(r.chains[f[1]], strings.Join(f[2:], " "))
		}
	}
	return r
}

// names of what is ours in iptables, by the instance.
type names struct{ forward, input, comment string }

func namesOf(instance string) names {
	return names{forward: "BRAMBLE-" + instance, input: "BRAMBLE-IN-" + instance, comment: "bramble-" + instance}
}

// accept is a rule that lets through what matches, in the order in which iptables prints its parts.
func (n names) accept(match string) string {
	return match + " -m comment --comment " + n.comment + " -j ACCEPT"
}

// wanted are the rules that a ruleset needs, by chain.
func wanted(r ruleset, n names, bridge, tunnel string, ports ...uint16) map[string][]string {
	out := map[string][]string{}
	if r.policies["FORWARD"] == "DROP" {
		all := []string{n.accept("-i " + bridge), n.accept("-o " + bridge), n.accept("-i " + tunnel), n.accept("-o " + tunnel)}
		if _, ok := r.chains[docker]; ok {
			out[docker] = all
		} else {
			out[n.forward] = all
			out["FORWARD"] = []string{"-j " + n.forward}
		}
	}
	if r.policies["INPUT"] == "DROP" {
		out[n.input] = []string{n.accept("-i " + bridge)}
		for _, port := range ports { // from whom is checked by those who listen
			if port != 0 {
				out[n.input] = append(out[n.input], n.accept("-p udp -m udp --dport "+strconv.Itoa(int(port))))
			}
		}
		out["INPUT"] = []string{"-j " + n.input}
	}
	return out
}

// plan lists the iptables commands from a ruleset to what is wanted: additions first, then the removal
// of rules of ours that are not wanted, then of chains.
func plan(r ruleset, n names, want map[string][]string) []string {
	var add, remove, drop []string
	for _, chain := range sorted(want) {
		if _, ok := r.chains[chain]; !ok {
			add = append(add, "-N "+chain)
		}
	}
	for _, chain := range sorted(want) {
		for i, rule := range want[chain] {
			if slices.Contains(r.chains[chain], rule) {
				continue
			}
			if chain == "FORWARD" || chain == "INPUT" || chain == docker {
				add = append(add, "-I "+chain+" "+strconv.Itoa(i+1)+" "+rule)
			} else {
				add = append(add, "-A "+chain+" "+rule)
			}
		}
	}
	for _, chain := range sorted(r.chains) {
		for _, rule := range r.chains[chain] {
			if n.ours(chain, rule) && !slices.Contains(want[chain], rule) {
				remove = append(remove, "-D "+chain+" "+rule)
			}
		}
	}
	for _, chain := range []string{n.forward, n.input} {
		if _, ok := r.chains[chain]; ok && want[chain] == nil {
			drop = append(drop, "-X "+chain)
		}
	}
	return slices.Concat(add, remove, drop)
}

func (n names) ours(chain, rule string) bool {
	return chain == n.forward || chain == n.input || rule == "-j "+n.forward || rule == "-j "+n.input ||
		strings.Contains(rule, "--comment "+n.comment+" ")
}

func sorted(m map[string][]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
