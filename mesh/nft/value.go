package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Type is the type of one field of a set's key or of a map's data. All of them fill one 32-bit register.
type Type uint8

// The types, with the kernel tools' own numbers (see datatype.h of nftables).
const (
	Verdict Type = 1
	Addr    Type = 7
	Proto   Type = 12
	Service Type = 13
)

var typeNames = map[Type]string{Verdict: "verdict", Addr: "ipv4_addr", Proto: "inet_proto", Service: "inet_service"}

func (t Type) String() string { return typeNames[t] }

// Protocol numbers of those that a Service may name.
const (
	ICMP = 1
	TCP  = 6
	UDP  = 17
	SCTP = 132
)

// ProtoName is the name that nft prints for a protocol number.
func ProtoName(p uint8) string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// Key is a concatenation of fields as the kernel compares it: four bytes a field. It is a string so
// that it can be a map's key here too.
type Key string

// MakeKey joins fields: netip.Addr (IPv4), uint8 (protocol), uint16 (port).
func MakeKey(fields ...any) Key {
	b := make([]byte, 0, 4*len(fields))
	for _, f := range fields {
		switch v := f.(type) {
		case netip.Addr:
			a := v.As4()
			b = append(b, a[:]...)
		case uint8:
			b = append(b, v, 0, 0, 0)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
			b = append(b, 0, 0)
		default:
			panic(fmt.Sprintf("nft: key field of type %T", f))
		}
	}
	return Key(b)
}

// format prints a key of the given types as nft does.
func (k Key) format(types []Type) string {
	var s strings.Builder
	for i, t := range types {
		if i > 0 {
			s.WriteString(" . ")
		}
		if len(k) < 4*i+4 {
			s.WriteString("?")
			continue
		}
		f := k[4*i : 4*i+4]
		switch t {
		case Addr:
			s.WriteString(netip.AddrFrom4([4]byte([]byte(f))).String())
		case Proto:
			s.WriteString(ProtoName(f[0]))
		case Service:
			s.WriteString(strconv.Itoa(int(f[0])<<8 | int(f[1])))
		}
	}
	return s.String()
}

// Value is what a map's element leads to: a chain, a drop, or data.
type Value struct {
	Goto string
	Drop bool
	Data Key
}

func (v Value) format(types []Type) string {
	switch {
	case v.Goto != "":
		return "goto " + v.Goto
	case v.Drop:
		return "drop"
	}
	return v.Data.format(types)
}

// Element is one element of a set or map.
type Element struct {
	Key     Key
	Value   Value         // of a map
	Comment string        // at most 127 bytes; longer ones are cut
	Expires time.Duration // of a set with a timeout: what is left of it
}

// Format prints an element of the set as nft does.
func (e Element) Format(s Set) string {
	out := e.Key.format(s.Key)
	if e.Comment != "" {
		out += " comment " + strconv.Quote(e.comment())
	}
	if len(s.Data) > 0 {
		out += " : " + e.Value.format(s.Data)
	}
	return out
}

func (e Element) comment() string {
	if len(e.Comment) > 127 {
		return e.Comment[:127]
	}
	return e.Comment
}

// Set describes a named set, or a map when it has data.
type Set struct {
	Name    string
	Key     []Type
	Data    []Type
	Dynamic bool          // rules add elements
	Timeout time.Duration // after which elements go
}

// Format prints the set's definition as nft does, without braces.
func (s Set) Format() []string {
	names := func(ts []Type) string {
		var n []string
		for _, t := range ts {
			n = append(n, t.String())
		}
		return strings.Join(n, " . ")
	}
	line := "type " + names(s.Key)
	if len(s.Data) > 0 {
		line += " : " + names(s.Data)
	}
	out := []string{line}
	if s.Dynamic {
		out = append(out, "size "+strconv.Itoa(dynamicSize), "flags dynamic,timeout", "timeout "+formatDuration(s.Timeout))
	}
	return out
}

func formatDuration(d time.Duration) string {
	s := int64(d / time.Second)
	out := ""
	for _, u := range []struct {
		n int64
		s string
	}{{86400, "d"}, {3600, "h"}, {60, "m"}, {1, "s"}} {
		if n := s / u.n; n > 0 {
			out += strconv.FormatInt(n, 10) + u.s
			s -= n * u.n
		}
	}
	return out
}
