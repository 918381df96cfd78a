// Package spelling mends the names of JSON fields that differ from the right ones by case alone.
//
// Servers of 2017 read JSON without regard to case, and manifests of that time rely on it: one with `hostpath:` mounted a
// hostPath, where a server of today drops the field and mounts an empty folder without a word.
//
// Invariant: a body is changed only where the API has no field of the name as it is written, has exactly one that differs by case
// alone, and the object does not have that one as well. A patch never removes a field under a wrong name: kubectl writes
// `hostpath: null` when a manifest's spelling was mended, and what the right name has must outlive that. Names keep their length, so
// they are overwritten where they lie. What is not JSON, or not of the type, stays as it is: to refuse it is the decoder's work.
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

// Mended is one name that was overwritten, or that a patch removes.
type Mended struct {
	Path string // as it was written: spec.volumes[0].hostpath
	Name string // as it is right: hostPath
	Left bool   // a patch removes it: it stays as it is
}

func (m Mended) String() string {
	if m.Left {
		return fmt.Sprintf("unknown field %q is removed, and %q is left as it is: names of fields are case-sensitive", m.Path, m.Name)
	}
	return fmt.Sprintf("unknown field %q is taken for %q: names of fields are case-sensitive", m.Path, m.Name)
}

// maxDepth of a body that is looked at; the API's deepest objects, schemas, are not ours to mend.
const maxDepth = 64

// Mend overwrites the wrong names in a JSON object of a type, also in one that is applied.
func Mend(body []byte, t reflect.Type) []Mended { return mend(&reader{body: body}, t) }

// MendPatch does it in a strategic merge patch, or a merge patch, of an object of a type.
func MendPatch(body []byte, t reflect.Type) []Mended {
	return mend(&reader{body: body, patch: true}, t)
}

func mend(r *reader, t reflect.Type) []Mended {
	if !r.value(t, step{}) {
		return nil // what was found before the fault was not overwritten
	}
	for _, w := range r.writings {
		copy(r.body[w.at:], w.name)
	}
	return r.found
}

// writing is a name and where it goes.
type writing struct {
	at   int
	name string
}

// member of an object, or a name in a patch's list of names.
type member struct {
	at        int    // where the name lies, without the directive
	directive string // what a patch writes before it
	name      string // as it is right
	written   string // as it is wrong, "" if it is not
	path      string // of a wrong one
	null      bool
}

func (m member) same(other member) bool {
	return m.directive == other.directive && m.name == other.name
}

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
	body     []byte
	patch    bool
	pos      int
	found    []Mended
	writings []writing
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
	var members, retained []member
	r.pos++ // {
	for n := 0; ; n++ {
		if end, ok := r.separator('}', n); end || !ok {
			r.keep(members, retained)
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
			if f.name != "" {
				r.space()
				m := member{at: from + len(directive), directive: string(directive), name: f.name, null: bytes.HasPrefix(r.body[r.pos:], []byte("null"))}
				if !exact {
					m.written, m.path = string(plain), next.String()
				}
				members = append(members, m)
			}
			if value = f.typ; len(directive) > 0 {
				value = nil
			}
			if string(name) == "$retainKeys" {
				if retained, ok = r.names(fields, next); !ok {
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

// keep takes what was found wrong in an object, unless it has the right field too, or has two wrong ones for it. In a patch a null
// is no field but the removal of one.
func (r *reader) keep(members, retained []member) {
	for i, m := range members {
		if m.written == "" {
			continue
		}
		if r.patch && m.null {
			r.found = append(r.found, Mended{Path: m.path, Name: m.name, Left: true})
			continue
		}
		taken, removed := false, -1
		for j, other := range members {
			switch {
			case i == j || !m.same(other):
			case !r.patch || !other.null:
				taken = true
			case other.written == "":
				removed = other.at
			}
		}
		if taken {
			continue
		}
		r.found = append(r.found, Mended{Path: m.path, Name: m.name})
		r.writings = append(r.writings, writing{m.at, m.name})
		if removed >= 0 { // in favour of the wrong name: each gets the other's
			r.writings = append(r.writings, writing{removed, m.written})
		}
		for _, k := range retained {
			if m.directive == "" && k.written == m.written {
				r.writings = append(r.writings, writing{k.at, m.name})
			}
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

// names reads a patch's list of names of fields, and gives the wrong ones.
func (r *reader) names(fields fields, at step) (wrong []member, ok bool) {
	r.space()
	if r.pos == len(r.body) || r.body[r.pos] != '[' {
		return nil, r.value(nil, at)
	}
	r.pos++
	for n := 0; ; n++ {
		if end, ok := r.separator(']', n); end || !ok {
			return wrong, ok
		}
		if r.pos == len(r.body) || r.body[r.pos] != '"' {
			return nil, false
		}
		name, from, ok := r.text()
		if !ok {
			return nil, false
		}
		if f, exact := fields.find(name); !exact && f.name != "" {
			wrong = append(wrong, member{at: from, name: f.name, written: string(name)})
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
