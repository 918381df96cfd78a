// Package fields tells field managers (server-side apply, managedFields) the structure of every built-in kind.
//
// Upstream keeps that structure as 430 KB of YAML, which is parsed twice at the first write: a second of a small board's time and
// tens of megabytes of garbage that leave the heap in holes. Here it is Go data that the linker lays out, made from the same text.
//
// Invariant: it says what upstream's says; a test converts objects by both.
//
//	converter := fields.NewTypeConverter(scheme)
package fields

//go:generate go run ./gen
