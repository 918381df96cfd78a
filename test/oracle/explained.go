package main

import "regexp"

// reason says why some answers differ, and will.
type reason struct {
	request    string // of the request, "group: name"
	difference string // of each line that differs
	why        string
}

// reasons are looked through in order; docs/api-coverage.md lists those that were needed.
var reasons = []reason{
	{`services/kubernetes`, `targetPort`, "the API's own Service leads to the port on which the server listens, another one on each side"},
}

// explain finds the reason that covers every line of a difference; empty: there is none.
func explain(e exchange, differ []string) string {
	for _, r := range reasons {
		if !regexp.MustCompile(r.request).MatchString(e.group + ": " + e.name) {
			continue
		}
		line := regexp.MustCompile(r.difference)
		covered := true
		for _, d := range differ {
			covered = covered && line.MatchString(d)
		}
		if covered {
			return r.why
		}
	}
	return ""
}
