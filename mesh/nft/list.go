package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// dump sends a request and calls f with each object of the answer. Of a missing table it has none.
func (c *Conn) dump(msg uint16, flags uint16, family uint8, attrs func(*buffer), f func(data []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	seq := c.seq
	var b buffer
	at := b.message(unix.NFNL_SUBSYS_NFTABLES<<8|msg, flags|unix.NLM_F_ACK, family, 0, seq)
	attrs(&b)
	b.finish(at)
	if err := c.send(b); err != nil {
		return err
	}
	var failed error
	for {
		err := c.receive(0, func(h header, data []byte) bool {
			switch {
			case h.seq != seq:
			case h.typ == unix.NLMSG_ERROR || h.typ == unix.NLMSG_DONE:
				if code := int32(binary.NativeEndian.Uint32(data)); code != 0 {
					failed = unix.Errno(-code)
				}
				return true
			case len(data) > 4:
				f(data[4:])
			}
			return false
		})
		if err == nil {
			break
		}
		if !errors.Is(err, errMore) {
			return err
		}
	}
	if errors.Is(failed, unix.ENOENT) {
		return nil
	}
	return failed
}

const tableHandle = 4 // NFTA_TABLE_HANDLE, which x/sys lacks

// TableHandle is the number of a table of the family inet, and whether there is one.
func (c *Conn) TableHandle(table string) (handle uint64, ok bool, err error) {
	err = c.dump(unix.NFT_MSG_GETTABLE, 0, unix.NFPROTO_INET, func(b *buffer) {
		b.string(unix.NFTA_TABLE_NAME, table)
	}, func(data []byte) {
		attributes(data, func(typ uint16, v []byte) {
			if typ == tableHandle {
				handle, ok = be64(v), true
			}
		})
	})
	if err != nil {
		return 0, false, fmt.Errorf("get nftables table %s: %w", table, err)
	}
	return handle, ok, nil
}

// Sets lists the names of a table's sets.
func (c *Conn) Sets(table string) ([]string, error) {
	var out []string
	err := c.dump(unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, unix.NFPROTO_INET, func(b *buffer) {
		b.string(unix.NFTA_SET_TABLE, table)
	}, func(data []byte) {
		var name string
		mine := true
		attributes(data, func(typ uint16, v []byte) {
			switch typ {
			case unix.NFTA_SET_NAME:
				name = text(v)
			case unix.NFTA_SET_TABLE:
				mine = text(v) == table
			}
		})
		if mine {
			out = append(out, name)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list sets of nftables table %s: %w", table, err)
	}
	return out, nil
}

// Elements lists the elements of a set with what is left of their time.
func (c *Conn) Elements(table, set string) ([]Element, error) {
	var out []Element
	err := c.dump(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, unix.NFPROTO_INET, func(b *buffer) {
		b.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		b.string(unix.NFTA_SET_ELEM_LIST_SET, set)
	}, func(data []byte) {
		attributes(data, func(typ uint16, v []byte) {
			if typ == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				attributes(v, func(_ uint16, v []byte) { out = append(out, parseElement(v)) })
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list elements of nftables set %s: %w", set, err)
	}
	return out, nil
}

func parseElement(v []byte) Element {
	var e Element
	attributes(v, func(typ uint16, v []byte) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			attributes(v, func(_ uint16, v []byte) { e.Key = Key(v) }) // a copy
		case unix.NFTA_SET_ELEM_DATA:
			attributes(v, func(typ uint16, v []byte) {
				if typ == unix.NFTA_DATA_VALUE {
					e.Value.Data = Key(v)
				}
			})
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.Expires = time.Duration(be64(v)) * time.Millisecond
		}
	})
	return e
}

// Hooked is a base chain of any table and family that the kernel has.
type Hooked struct {
	Table  string
	Chain  string
	Type   string
	Hook   Hook
	Drops  bool // its policy
	IsInet bool
}

// BaseChains lists the base chains that IPv4 packets come through, in all tables.
func (c *Conn) BaseChains() ([]Hooked, error) {
	var out []Hooked
	for _, family := range []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_INET} {
		err := c.dump(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, family, func(b *buffer) {}, func(data []byte) {
			h := Hooked{IsInet: family == unix.NFPROTO_INET}
			base := false
			attributes(data, func(typ uint16, v []byte) {
				switch typ {
				case unix.NFTA_CHAIN_TABLE:
					h.Table = text(v)
				case unix.NFTA_CHAIN_NAME:
					h.Chain = text(v)
				case unix.NFTA_CHAIN_TYPE:
					h.Type = text(v)
				case unix.NFTA_CHAIN_POLICY:
					h.Drops = be32(v) == nfDrop
				case unix.NFTA_CHAIN_HOOK:
					base = true
					attributes(v, func(typ uint16, v []byte) {
						if typ == unix.NFTA_HOOK_HOOKNUM {
							h.Hook = Hook(be32(v))
						}
					})
				}
			})
			if base {
				out = append(out, h)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
	}
	return out, nil
}
