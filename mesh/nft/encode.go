package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	dynamicSize = 65535 // elements of a set that packets fill: the kernel forgets the rest, and so do we
	anonymous   = "__map%d"
	// maxList bounds the bytes of a list of elements in one message: an attribute's length has 16 bits.
	maxList = 48 << 10
)

// transaction encodes operations into one batch.
type transaction struct {
	buffer
	seq     uint32
	starts  []int // of each message, to set the acknowledgement flag on the last
	ops     []int // index of the operation behind each message, to name the one that failed
	current int
	maps    uint32 // anonymous maps so far; the number of each is its ID in the batch
}

func (t *transaction) nft(msg, flags uint16) int {
	at := t.message(unix.NFNL_SUBSYS_NFTABLES<<8|msg, flags, unix.NFPROTO_INET, 0, t.seq)
	t.seq++
	t.starts = append(t.starts, at)
	t.ops = append(t.ops, t.current)
	return at
}

func (o AddTable) encode(t *transaction) {
	at := t.nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
	t.string(unix.NFTA_TABLE_NAME, o.Table)
	t.u32(unix.NFTA_TABLE_FLAGS, 0)
	t.finish(at)
}

func (o DeleteTable) encode(t *transaction) {
	at := t.nft(unix.NFT_MSG_DELTABLE, 0)
	t.string(unix.NFTA_TABLE_NAME, o.Table)
	t.finish(at)
}

func (o AddChain) encode(t *transaction) {
	at := t.nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	t.string(unix.NFTA_CHAIN_TABLE, o.Table)
	t.string(unix.NFTA_CHAIN_NAME, o.Chain)
	if o.Base != nil {
		hook := t.begin(unix.NFTA_CHAIN_HOOK)
		t.u32(unix.NFTA_HOOK_HOOKNUM, uint32(o.Base.Hook))
		t.u32(unix.NFTA_HOOK_PRIORITY, uint32(o.Base.Priority))
		t.end(hook)
		t.u32(unix.NFTA_CHAIN_POLICY, nfAccept)
		t.string(unix.NFTA_CHAIN_TYPE, o.Base.Type)
	}
	t.finish(at)
}

func (o FlushChain) encode(t *transaction) {
	at := t.nft(unix.NFT_MSG_DELRULE, 0)
	t.string(unix.NFTA_RULE_TABLE, o.Table)
	t.string(unix.NFTA_RULE_CHAIN, o.Chain)
	t.finish(at)
}

func (o DeleteChain) encode(t *transaction) {
	at := t.nft(unix.NFT_MSG_DELCHAIN, 0)
	t.string(unix.NFTA_CHAIN_TABLE, o.Table)
	t.string(unix.NFTA_CHAIN_NAME, o.Chain)
	t.finish(at)
}

func types(ts []Type) (magic, size uint32) {
	for _, t := range ts {
		magic = magic<<6 | uint32(t)
		size += 4
	}
	if len(ts) == 1 { // a lone field is not padded
		switch ts[0] {
		case Proto:
			size = 1
		case Service:
			size = 2
		}
	}
	return magic, size
}

func (o AddSet) encode(t *transaction) { t.set(o.Table, o.Set, 0, 0) }

func (t *transaction) set(table string, s Set, flags, id uint32) {
	at := t.nft(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE)
	t.string(unix.NFTA_SET_TABLE, table)
	t.string(unix.NFTA_SET_NAME, s.Name)
	if len(s.Data) > 0 {
		flags |= unix.NFT_SET_MAP
	}
	if s.Dynamic {
		flags |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	}
	t.u32(unix.NFTA_SET_FLAGS, flags)
	magic, size := types(s.Key)
	if flags&unix.NFT_SET_ANONYMOUS != 0 {
		const integer = 4
		magic, size = integer, 4
	}
	t.u32(unix.NFTA_SET_KEY_TYPE, magic)
	t.u32(unix.NFTA_SET_KEY_LEN, size)
	if len(s.Data) == 1 && s.Data[0] == Verdict {
		t.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		t.u32(unix.NFTA_SET_DATA_LEN, 16) // what the kernel takes whatever is said here
	} else if len(s.Data) > 0 {
		magic, size := types(s.Data)
		t.u32(unix.NFTA_SET_DATA_TYPE, magic)
		t.u32(unix.NFTA_SET_DATA_LEN, size)
	}
	t.u32(unix.NFTA_SET_ID, id)
	if s.Dynamic {
		t.u64(unix.NFTA_SET_TIMEOUT, uint64(s.Timeout.Milliseconds()))
		desc := t.begin(unix.NFTA_SET_DESC)
		t.u32(unix.NFTA_SET_DESC_SIZE, dynamicSize)
		t.end(desc)
	}
	if flags&unix.NFT_SET_ANONYMOUS != 0 {
		// Tells nft that numbers are in the host's order, so that it prints 1 and not 16777216.
		t.bytes(unix.NFTA_SET_USERDATA, []byte{0, 4, 1, 0, 0, 0})
	} else {
		t.bytes(unix.NFTA_SET_USERDATA, []byte{0, 4, 2, 0, 0, 0})
	}
	t.finish(at)
}

func (o DeleteSet) encode(t *transaction) {
	at := t.nft(unix.NFT_MSG_DELSET, 0)
	t.string(unix.NFTA_SET_TABLE, o.Table)
	t.string(unix.NFTA_SET_NAME, o.Set)
	t.finish(at)
}

func (o AddRule) encode(t *transaction) {
	data := o.Rule.data
	if o.Rule.vmap != nil {
		// Two maps of one ID: older kernels (6.1 of Debian 12) take the first for both rules and answer EBUSY.
		t.maps++
		s := Set{Name: anonymous, Key: []Type{0}, Data: []Type{Verdict}}
		t.set(o.Table, s, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT, t.maps)
		t.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, o.Table, s, o.Rule.vmap, t.maps)
		data = binary.BigEndian.AppendUint32(data[:len(data)-4:len(data)-4], t.maps) // see Spread
	}
	at := t.nft(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	t.string(unix.NFTA_RULE_TABLE, o.Table)
	t.string(unix.NFTA_RULE_CHAIN, o.Chain)
	t.bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, data)
	t.finish(at)
}

func (o AddElements) encode(t *transaction) {
	t.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, o.Table, o.Set, o.Elements, 0)
}

func (o DeleteElements) encode(t *transaction) {
	bare := make([]Element, len(o.Elements))
	for i, e := range o.Elements {
		bare[i].Key = e.Key
	}
	s := o.Set
	s.Data = nil
	t.elements(unix.NFT_MSG_DELSETELEM, 0, o.Table, s, bare, 0)
}

// elements writes elements in as many messages as they need.
func (t *transaction) elements(msg, flags uint16, table string, s Set, es []Element, id uint32) {
	for len(es) > 0 {
		at := t.nft(msg, flags)
		t.string(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		t.string(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		if id != 0 {
			t.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		}
		list := t.begin(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		n := 0
		for ; n < len(es) && len(t.buffer)-list < maxList; n++ {
			t.element(s, es[n])
		}
		t.end(list)
		t.finish(at)
		es = es[n:]
	}
}

func (t *transaction) element(s Set, e Element) {
	at := t.begin(unix.NFTA_LIST_ELEM)
	key := []byte(e.Key)
	if len(s.Key) == 1 {
		if _, size := types(s.Key); int(size) < len(key) && s.Key[0] != 0 {
			key = key[:size]
		}
	}
	value(&t.buffer, unix.NFTA_SET_ELEM_KEY, key)
	if len(s.Data) > 0 {
		data := t.begin(unix.NFTA_SET_ELEM_DATA)
		switch {
		case e.Value.Goto != "":
			verdict(&t.buffer, unix.NFT_GOTO, e.Value.Goto)
		case e.Value.Drop:
			verdict(&t.buffer, nfDrop, "")
		default:
			t.bytes(unix.NFTA_DATA_VALUE, []byte(e.Value.Data))
		}
		t.end(data)
	}
	if e.Expires > 0 {
		t.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(s.Timeout.Milliseconds()))
		t.u64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(min(e.Expires, s.Timeout).Milliseconds()))
	}
	if c := e.comment(); c != "" {
		data := append([]byte{0, byte(len(c) + 1)}, c...)
		t.bytes(unix.NFTA_SET_ELEM_USERDATA, append(data, 0))
	}
	t.end(at)
}
