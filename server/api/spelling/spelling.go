// Package spelling mends the names of JSON fields that differ from the right ones by case alone.
//
// Servers of 2017 read JSON without regard to case, and manifests of that time rely on it: one with `hostpath:` mounted a
// hostPath, where a server of today drops the field and mounts an empty folder without a word.
//
// Invariant: a body is changed only where the API has no field of the name as it is written, has exactly one that differs by case
// alone, and the object does not have that one as well. Names keep their length, so they are overwritten where they lie. What is
// not JSON, or not of the type, stays as it is: to refuse it is the decoder's work.
//
//	mended := spelling.Mend(body, reflect.TypeFor[corev1.Pod]())
//	// spec.volumes[0].hostpath -> hostPath
package spelling

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Mended is one name that was overwritten.
type Mended struct {
	Path string // as it was written: spec.volumes[0].hostpath
	Name string // as it is right: hostPath
}

func (m Mended) String() string {
	return fmt.Sprintf("unknown field %q is taken for %q: names of fields are case-sensitive", m.Path, m.Name)
}

// maxDepth of a body that is looked at; the API's deepest objects, schemas, are not ours to mend.
const maxDepth = 64

// Mend overwrites the wrong names in a JSON object of a type, or in a patch (strategic merge, merge, apply) of one.
func Mend(body []byte, t reflect.Type) []Mended {
	r := reader{body: body}
	if !r.value(t, step{}) {
		return nil // what was found before the fault was not overwritten
	}
	mended := make([]Mended, 0, len(r.found))
	for _, f := range r.found {
		copy(body[f.at:], f.name)
		mended = append(mended, f.Mended())
	}
	return mended
}

// finding is a wrong name: where it lies and what it should be.
type finding struct {
	at        int
	directive string // what a patch writes before it
	name      string
	path      string
}

func (f finding) Mended() Mended { return Mended{Path: f.path, Name: f.name} }

// step is the way from the root, a name or an index at a time. It is written out only where something is found.
type step struct {
	up    *step
	name  []byte
	index int
	depth int
}

func (s *step) String() string {
	switch {
	case s.up == nil:
		return ""
	case s.name == nil:
		return s.up.String() + "[" + strconv.Itoa(s.index) + "]"
	case s.up.up == nil:
		return string(s.name)
	}
	return s.up.String() + "." + string(s.name)
}

// reader goes once through a body.
type reader struct {
	body  []byte
	pos   int
	found []finding
}

// value reads one value; a nil type is one of which nothing is known. False: this is no JSON, or too deep.
func (r *reader) value(t reflect.Type, at step) bool {
	if at.depth > maxDepth {
		return false
	}
	r.space()
	if r.pos == len(r.body) {
		return false
	}
	t = shape(t)
	switch r.body[r.pos] {
	case '{':
		return r.object(t, at)
	case '[':
		return r.array(t, at)
	case '"':
		_, _, ok := r.text()
		return ok
	}
	start := r.pos
	for r.pos < len(r.body) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(r.body[r.pos])) {
		r.pos++
	}
	return r.pos > start
}

func (r *reader) object(t reflect.Type, at step) bool {
	fields := fieldsOf(t)
	var element reflect.Type
	if t != nil && t.Kind() == reflect.Map {
		element = t.Elem()
	}
	var wrong []finding
	var right []string
	r.pos++ // {
	for n := 0; ; n++ {
		if end, ok := r.separator('}', n); end || !ok {
			r.keep(wrong, right)
			return ok
		}
		name, from, ok := r.text()
		if !ok || !r.literal(':') {
			return false
		}
		next := step{up: &at, name: name, depth: at.depth + 1}
		value := element
		if fields != nil {
			directive, plain := directiveOf(name)
			f, exact := fields.find(plain)
			switch {
			case exact:
				right = append(right, string(directive)+f.name)
			case f.name != "":
				wrong = append(wrong, finding{at: from + len(directive), directive: string(directive), name: f.name, path: next.String()})
			}
			if value = f.typ; len(directive) > 0 {
				value = nil
			}
			if string(name) == "$retainKeys" {
				if !r.names(fields, next) {
					return false
				}
				continue
			}
		}
		if !r.value(value, next) {
			return false
		}
	}
}

// keep takes what was found wrong in an object, unless it has the right field too, or has two wrong ones for it.
func (r *reader) keep(wrong []finding, right []string) {
	for i, f := range wrong {
		taken := false
		for _, name := range right {
			taken = taken || name == f.directive+f.name
		}
		for j, other := range wrong {
			taken = taken || i != j && other.directive == f.directive && other.name == f.name
		}
		if !taken {
			r.found = append(r.found, f)
		}
	}
}

func (r *reader) array(t reflect.Type, at step) bool {
	var element reflect.Type
	if t != nil && t.Kind() == reflect.Slice {
		element = t.Elem()
	}
	r.pos++ // [
	for n := 0; ; n++ {
		if end, ok := r.separator(']', n); end || !ok {
			return ok
		}
		if !r.value(element, step{up: &at, index: n, depth: at.depth + 1}) {
			return false
		}
	}
}

// names reads a patch's list of names of fields.
func (r *reader) names(fields fields, at step) bool {
	r.space()
	if r.pos == len(r.body) || r.body[r.pos] != '[' {
		return r.value(nil, at)
	}
	r.pos++
	for n := 0; ; n++ {
		if end, ok := r.separator(']', n); end || !ok {
			return ok
		}
		if r.pos == len(r.body) || r.body[r.pos] != '"' {
			return false
		}
		name, from, ok := r.text()
		if !ok {
			return false
		}
		if f, exact := fields.find(name); !exact && f.name != "" {
			r.found = append(r.found, finding{at: from, name: f.name, path: at.String()})
		}
	}
}

// separator goes to the n-th element of what ends with a bracket, or past that.
func (r *reader) separator(bracket byte, n int) (end, ok bool) {
	r.space()
	if r.pos == len(r.body) {
		return false, false
	}
	if r.body[r.pos] == bracket {
		r.pos++
		return true, true
	}
	if n > 0 && !r.literal(',') {
		return false, false
	}
	r.space()
	return false, r.pos < len(r.body)
}

func (r *reader) literal(c byte) bool {
	r.space()
	if r.pos == len(r.body) || r.body[r.pos] != c {
		return false
	}
	r.pos++
	return true
}

func (r *reader) space() {
	for r.pos < len(r.body) && (r.body[r.pos] == ' ' || r.body[r.pos] == '\n' || r.body[r.pos] == '\t' || r.body[r.pos] == '\r') {
		r.pos++
	}
}

// text reads a string and gives what is between its quotes, escapes as they are, and where that begins.
func (r *reader) text() (s []byte, from int, ok bool) {
	if r.pos == len(r.body) || r.body[r.pos] != '"' {
		return nil, 0, false
	}
	from = r.pos + 1
	for r.pos = from; r.pos < len(r.body); r.pos++ {
		switch r.body[r.pos] {
		case '\\':
			r.pos++
		case '"':
			r.pos++
			return r.body[from : r.pos-1], from, true
		}
	}
	return nil, 0, false
}

// directiveOf splits what a strategic merge patch writes before a field's name, such as "$setElementOrder/".
func directiveOf(name []byte) (directive, plain []byte) {
	if len(name) > 0 && name[0] == '$' {
		if i := bytes.IndexByte(name, '/'); i >= 0 {
			return name[:i+1], name[i+1:]
		}
	}
	return nil, name
}

// shape is the struct, slice or map that JSON of a type shows, or nil: scalars, and types that read themselves.
func shape(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map:
		return t
	}
	return nil
}

// field of a struct, as JSON names it.
type field struct {
	name string
	typ  reflect.Type
}

type fields []field

// find gives the field of a name, or else the only one that differs by case alone.
func (fs fields) find(name []byte) (f field, exact bool) {
	similar := 0
	for _, other := range fs {
		if len(other.name) != len(name) {
			continue
		}
		if other.name == string(name) {
			return other, true
		}
		if strings.EqualFold(other.name, string(name)) {
			f = other
			similar++
		}
	}
	if similar != 1 {
		return field{}, false
	}
	return f, false
}
