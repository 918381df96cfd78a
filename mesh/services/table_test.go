package services

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/nft/nfttest"
)

func TestTable(t *testing.T) {
	k := nfttest.New()
	p := Open(k, Options{Table: table})
	if err := p.Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	golden(t, "everything.nft", k.Text(table))
	if err := p.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := k.Text(table); got != "" {
		t.Errorf("left after the teardown:\n%s", got)
	}
}

// TestKernelTakesTheTable loads the same table into the kernel, and compares what nft lists with what
// the golden file says. Then nft reads its own listing back: a saved ruleset must load again.
func TestKernelTakesTheTable(t *testing.T) {
	golden := nfttest.New()
	if err := Open(golden, Options{Table: table}).Set(context.Background(), everything()); err != nil {
		t.Fatal(err)
	}
	ns := nstest.New(t, "n")
	ns.Must(func() error {
		conn, err := nft.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		return Open(conn, Options{Table: table}).Set(context.Background(), everything())
	})
	listed := ns.Run("nft", "list", "table", "inet", table)
	if got, want := normal(listed), normal(golden.Text(table)); got != want {
		t.Errorf("nft lists another table than ours (+ nft, - ours):\n%s", differences(got, want))
	}
	again := nstest.New(t, "again")
	file := t.TempDir() + "/saved.nft"
	if err := writeFile(file, listed); err != nil {
		t.Fatal(err)
	}
	again.Run("nft", "-f", file)
	if got := normal(again.Run("nft", "list", "table", "inet", table)); got != normal(listed) {
		t.Errorf("the saved table is another one when it is loaded:\n%s", differences(got, normal(listed)))
	}
}

var elements = regexp.MustCompile(`(?s)elements = \{(.*?)\}\n`)

// normal brings both listings into one form: blocks sorted, an element a line.
func normal(s string) string {
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

// differences are the lines that only one of two texts has.
func differences(a, b string) string {
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
