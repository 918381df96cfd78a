package podspec

import "strings"

// Expand replaces $(NAME) by what lookup knows. What it does not know stays as it is, and $$ is a
// literal dollar, so that $$(NAME) is how a reference is written out.
func Expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 { // never closed: taken as it is
				out.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+2+end]
			if value, ok := lookup(name); ok {
				out.WriteString(value)
			} else {
				out.WriteString("$(" + name + ")")
			}
			i += 2 + end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

func expandAll(in []string, lookup func(string) (string, bool)) []string {
	if in == nil {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = Expand(s, lookup)
	}
	return out
}

// Command expands a container's command and arguments with its environment (KEY=value).
func Command(command, args, env []string) (expandedCommand, expandedArgs []string) {
	lookup := Lookup(env)
	return expandAll(command, lookup), expandAll(args, lookup)
}

// Lookup makes a lookup of an environment (KEY=value).
func Lookup(env []string) func(string) (string, bool) {
	values := make(map[string]string, len(env))
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		values[k] = v
	}
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}
