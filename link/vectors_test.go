package link

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"bramble.dev/internal/golden"
)

// vectors are the test vectors that docs/protocol.md refers to: another agent can be checked with them.
type vectors struct {
	Set struct {
		Items []vectorItem `json:"items"`
		// Digests as docs/protocol.md computes them.
		Leaves map[string]string `json:"leaves"`
		Tops   map[string]string `json:"tops"`
		Root   string            `json:"root"`
	} `json:"set"`
	Messages []vectorMessage `json:"messages"`
	Frame    struct {
		Key      string `json:"key"`
		Session  uint32 `json:"session"`
		Counter  uint64 `json:"counter"`
		Messages string `json:"messages"`
		Frame    string `json:"frame"`
	} `json:"frame"`
	Handshake vectorHandshake `json:"handshake"`
}

type vectorItem struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Hash    string `json:"hash"`
	Version string `json:"version"`
	Leaf    int    `json:"leaf"`
	Short   string `json:"short"` // hash of the item with the salt 01020304
}

type vectorMessage struct {
	Name string `json:"name"`
	Hex  string `json:"hex"`
}

// vectorHandshake was recorded: the signatures and the encapsulation are random.
type vectorHandshake struct {
	Cluster         string `json:"cluster"`
	Place           string `json:"place"`
	CA              string `json:"caCertificate"`
	NodeKey         string `json:"nodeKeyPKCS8"`
	NodeCertificate string `json:"nodeCertificate"`
	Name            string `json:"name"`
	Instance        string `json:"instance"`
	Counter         uint64 `json:"counter"`
	KEMPrivate      string `json:"kemPrivateKey"`
	Hello           string `json:"hello"`
	Welcome         string `json:"welcome"`
	Binding         string `json:"binding"`
	ServerTime      int64  `json:"serverTimeMillis"`
	Incarnation     string `json:"incarnation"`
	Auth            string `json:"auth"`
	AgentToServer   string `json:"keyAgentToServer"`
	ServerToAgent   string `json:"keyServerToAgent"`
	Session         uint32 `json:"session"`
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func makeVectors(t *testing.T) (v vectors) {
	set := NewSet()
	add := func(key, value string) {
		set.Put(key, []byte(value))
		it := set.get(key)
		v.Set.Items = append(v.Set.Items, vectorItem{key, hex.EncodeToString([]byte(value)), fmt.Sprintf("%016x", it.hash),
			hex.EncodeToString(it.version[:]), leafOf(it.hash), fmt.Sprintf("%08x", salt{1, 2, 3, 4}.item(it))})
	}
	add("pods/default/web", "one")
	add("configmaps/default/motd", "two")
	add("secrets/default/tls", "")
	add("node/pi1", "three")
	v.Set.Leaves, v.Set.Tops = map[string]string{}, map[string]string{}
	sums := set.leafDigests()
	for i, d := range sums {
		if d != (Digest{}) {
			v.Set.Leaves[fmt.Sprint(i)] = hex.EncodeToString(d[:])
		}
	}
	for i, d := range topDigests(sums) {
		if d != (Digest{}) {
			v.Set.Tops[fmt.Sprint(i)] = hex.EncodeToString(d[:])
		}
	}
	root := set.Root()
	v.Set.Root = hex.EncodeToString(root[:])

	var marked leafSet
	marked.add(3)
	marked.add(200)
	var listedItems encoder
	everything := allLeaves()
	set.shortItems(&listedItems, salt{1, 2, 3, 4}, &everything)
	message := func(name string, kind byte, body []byte) {
		var e encoder
		e.message(kind, body)
		v.Messages = append(v.Messages, vectorMessage{name, hex.EncodeToString(e.b)})
	}
	message("ack of frame 300, held 25 ms", typeAck, ack{300, 25 * time.Millisecond}.encode())
	message("ping", typePing, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	var pong encoder
	pong.uvarint(1800000000000)
	message("pong at 1800000000000 ms", typePong, pong.b)
	var stamp encoder
	stamp.uvarint(uint64(90 * time.Second))
	message("hold at 90 s", typeHold, stamp.b)
	message("held at 90 s", typeHeld, stamp.b)
	message("have of node, applied 7, resumed", typeHave, have{set: NodeSet, flags: haveResume, upto: 7, root: root}.encode())
	message("ask for the root of shared", typeAsk, (&ask{set: SharedSet, kind: askRoot}).encode())
	message("ask for tops of node", typeAsk, (&ask{set: NodeSet, kind: askTops, salt: salt{1, 2, 3, 4}}).encode())
	message("ask for leaves below 0 and 15 of node", typeAsk, (&ask{set: NodeSet, kind: askLeaves, salt: salt{1, 2, 3, 4}, tops: 0x8001}).encode())
	message("ask for items of leaves 3 and 200 of node", typeAsk, (&ask{set: NodeSet, kind: askItems, salt: salt{1, 2, 3, 4}, marked: marked}).encode())
	message("tell of tops of the set above", typeTell, (&tell{set: NodeSet, kind: askTops, salt: salt{1, 2, 3, 4}, body: set.shortTops(salt{1, 2, 3, 4})}).encode())
	message("tell of leaves below every top of the set above", typeTell, (&tell{set: NodeSet, kind: askLeaves, salt: salt{1, 2, 3, 4}, body: set.shortLeaves(salt{1, 2, 3, 4}, 0xffff)}).encode())
	message("tell of all items of the set above", typeTell, (&tell{set: NodeSet, kind: askItems, salt: salt{1, 2, 3, 4}, body: listedItems.b}).encode())
	m := items{set: NodeSet, id: 8, last: true, root: root, salt: salt{1, 2, 3, 4}, drops: []drop{{200, 0xdeadbeef}},
		changes: []Change{{Key: "configmaps/default/motd", Value: []byte("two")}, {Key: "pods/default/old"}, {Key: "secrets/default/tls", Value: []byte{}}}}
	message("items, last, not compressed", typeItems, m.encode(func([]byte) []byte { return nil }))
	message("part 2 of message 5", typePart, (&part{id: 5, offset: 31000, total: 40000, data: []byte("data")}).encode())
	message("data that opens stream 1 to api", typeData, (&data{stream: 1, flags: dataOpen, target: "api", bytes: []byte("GET")}).encode())
	message("data at 3 that ends stream 1", typeData, (&data{stream: 1, flags: dataEnd, offset: 3, bytes: []byte("/")}).encode())
	message("credit of stream 1, a gap", typeCredit, credit{stream: 1, received: 3, limit: 65539, flags: creditGap}.encode())
	message("reset of stream 1", typeReset, reset{1, "closed"}.encode())
	message("reset of stream 1 confirmed", typeReset, reset{stream: 1}.encode())
	message("accept", typeAccept, (&Greeting{Incarnation: "i1"}).encode())
	message("refuse", typeRefuse, (&Greeting{Refused: RefuseToken, Reason: "no"}).encode())

	server, _ := testKeys(1)
	s := sealer{version: 1, session: 0x01020304, aead: newAEAD(server.Send[:]), counter: 41}
	v.Frame.Key, v.Frame.Session, v.Frame.Counter, v.Frame.Messages = hex.EncodeToString(server.Send[:]), s.session, 42, v.Messages[0].Hex
	v.Frame.Frame = hex.EncodeToString(s.seal(unhex(t, v.Messages[0].Hex)))
	return v
}

func recordHandshake(t *testing.T) (v vectorHandshake) {
	h := newHandshake(t)
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(h.nodeKey)
	if err != nil {
		t.Fatal(err)
	}
	v = vectorHandshake{Cluster: h.initiator.Cluster, Place: h.initiator.Place, CA: hex.EncodeToString(h.der), NodeKey: hex.EncodeToString(key),
		NodeCertificate: hex.EncodeToString(h.initiator.Credential.Certificate), Name: "pi1", Instance: "abc", Counter: 7, KEMPrivate: hex.EncodeToString(seed)}
	i := newInitiator(h.initiator, private)
	v.Hello = hex.EncodeToString(i.Frame())
	welcome, _, err := h.responder.Receive(v.Place, i.Frame(), handshakeNow)
	if err != nil {
		t.Fatal(err)
	}
	v.Welcome = hex.EncodeToString(welcome)
	if err := i.Receive(welcome); err != nil {
		t.Fatal(err)
	}
	v.Auth = hex.EncodeToString(i.Frame())
	return complete(t, v)
}

// complete fills in what follows from the frames and the agent's private key.
func complete(t *testing.T, v vectorHandshake) vectorHandshake {
	t.Helper()
	kem, _, _ := suite()
	private, err := kem.NewPrivateKey(unhex(t, v.KEMPrivate))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(unhex(t, v.CA))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(unhex(t, v.NodeKey))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	i := newInitiator(InitiatorConfig{Cluster: v.Cluster, Place: v.Place, Roots: roots, Key: key.(crypto.Signer), Now: handshakeNow,
		Credential: Credential{Name: v.Name, Instance: v.Instance, Counter: v.Counter, Certificate: unhex(t, v.NodeCertificate)}}, private)
	if got := hex.EncodeToString(i.Frame()); got != v.Hello {
		t.Errorf("hello is %s, not %s", got, v.Hello)
	}
	if err := i.Receive(unhex(t, v.Welcome)); err != nil {
		t.Fatal(err)
	}
	keys, _ := i.Keys()
	v.AgentToServer, v.ServerToAgent, v.Session = hex.EncodeToString(keys.Send[:]), hex.EncodeToString(keys.Receive[:]), keys.Session
	v.ServerTime, v.Incarnation = i.time.UnixMilli(), i.incarnation
	v.Binding = hex.EncodeToString(i.secrets.binding)
	// The recorded auth must be what the server accepts.
	_, prefix, sealed, err := decodeAuth(unhex(t, v.Auth))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := i.secrets.openOnce("auth", prefix, sealed)
	if err != nil {
		t.Fatal(err)
	}
	c, signed, signature, err := decodeCredential(plain)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(signed, i.cfg.Credential.encode()) || c.Name != v.Name {
		t.Error("the credential differs")
	}
	certificate, err := VerifyNodeCertificate(c.Certificate, roots, handshakeNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSignature(certificate.Key, toSign("agent", i.secrets.binding, unhex(t, v.Hello), unhex(t, v.Welcome), signed), signature); err != nil {
		t.Error(err)
	}
	return v
}

const vectorFile = "testdata/vectors.json"

// TestVectors: go test ./link -run Vectors -update writes what changed anew. Without the file it records another handshake.
func TestVectors(t *testing.T) {
	got := makeVectors(t)
	switch b, err := os.ReadFile(vectorFile); {
	case errors.Is(err, fs.ErrNotExist):
		got.Handshake = recordHandshake(t)
	case err != nil:
		t.Fatal(err)
	default:
		var have vectors
		if err := json.Unmarshal(b, &have); err != nil {
			t.Fatal(err)
		}
		got.Handshake = complete(t, have.Handshake)
	}
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, vectorFile, string(text)+"\n")
	for _, m := range got.Messages {
		d := decoder{b: unhex(t, m.Hex)}
		d.byte()
		d.bytes()
		if err := d.end(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	k := Keys{Version: 1, Session: got.Frame.Session}
	copy(k.Receive[:], unhex(t, got.Frame.Key))
	o := opener{version: 1, session: got.Frame.Session, aead: newAEAD(k.Receive[:])}
	if messages, _, err := o.open(unhex(t, got.Frame.Frame)); err != nil || hex.EncodeToString(messages) != got.Frame.Messages {
		t.Error("frame:", err)
	}
}
