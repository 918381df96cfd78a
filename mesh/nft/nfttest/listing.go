package nfttest

import (
	"regexp"
	"slices"
	"strings"
)

var elements = regexp.MustCompile(`(?s)elements = \{(.*?)\}\n`)

// Normal brings both listings into one form: blocks sorted, an element a line.
func Normal(s string) string {
	s = strings.ReplaceAll(s, "priority -100;", "priority dstnat;")
	s = elements.ReplaceAllStringFunc(s, func(m string) string {
		body := elements.FindStringSubmatch(m)[1]
		var es []string
		for _, e := range regexp.MustCompile(`,\n|,\s|\n`).Split(body, -1) {
			if e = strings.TrimSpace(e); e != "" {
				es = append(es, e)
			}
		}
		slices.Sort(es)
		return "elements\n\t\t\t" + strings.Join(es, "\n\t\t\t") + "\n"
	})
	var blocks []string
	for _, b := range strings.Split(s, "\n\t}\n") {
		b = strings.TrimLeft(b, "\n")
		if _, rest, ok := strings.Cut(b, "{\n\t"); ok && strings.HasPrefix(b, "table") {
			b = "\t" + rest
		}
		blocks = append(blocks, b)
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}

// Differences are the lines that only one of two texts has.
func Differences(a, b string) string {
	var out []string
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range as {
		if !slices.Contains(bs, l) {
			out = append(out, "+"+l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			out = append(out, "-"+l)
		}
	}
	return strings.Join(out, "\n")
}
