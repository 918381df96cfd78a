package uplink

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"bramble.dev/internal/durable"
	"bramble.dev/link"
)

// Files in the folder of an uplink.
const (
	keyFile         = "node.key"
	certificateFile = "node.crt"
	caFile          = "ca.crt"
	instanceFile    = "instance"
	counterFile     = "session"
)

// reserve is how many sessions one write of the counter is good for: a board that reconnects often
// must not wear out its card, and a counter that jumps does no harm.
const reserve = 16

// identity is who the node is: its key, what the cluster gave it, and the counter of its sessions.
type identity struct {
	dir, name string
	key       *ecdsa.PrivateKey
	instance  string
	token     *token

	mu          sync.Mutex
	certificate []byte // DER
	former      []byte // given up while the node joins again
	ca          *x509.Certificate
	counter     uint64
	reserved    uint64
}

// token is bramble1.<hash of the CA>.<id>.<secret>.
type token struct{ caHash, id, secret string }

var tokenForm = regexp.MustCompile(`^bramble1\.([0-9a-f]{64})\.([a-z0-9]+)\.([a-z0-9]+)$`)

func parseToken(s string) (*token, error) {
	m := tokenForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return nil, errors.New("uplink: the token must look like bramble1.<hash>.<id>.<secret>; make one on the server with: bramble token create")
	}
	return &token{m[1], m[2], m[3]}, nil
}

var errNoToken = errors.New("this node has not joined a cluster yet and has no token; make one on the server with `bramble token create`, and give it with --token or --token-file")

// Joined says whether a node of this folder has joined a cluster.
func Joined(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, certificateFile))
	return err == nil
}

func openIdentity(dir, name, tokenText string) (*identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("uplink: %w", err)
	}
	id := &identity{dir: dir, name: name}
	if err := id.load(); err != nil {
		return nil, fmt.Errorf("uplink: identity in %s: %w", dir, err)
	}
	if tokenText != "" {
		t, err := parseToken(tokenText)
		if err != nil {
			return nil, err
		}
		id.token = t
	}
	if id.certificate == nil && id.token == nil {
		return nil, errNoToken
	}
	return id, id.check()
}

// check refuses a folder that belongs to another node or cluster.
func (id *identity) check() error {
	if id.certificate == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(id.certificate)
	if err != nil {
		return fmt.Errorf("uplink: %s: %w", filepath.Join(id.dir, certificateFile), err)
	}
	if leaf.Subject.CommonName != link.NodePrefix+id.name {
		return fmt.Errorf("uplink: %s holds the identity of node %q, but --node-name says %q: use another data folder, or the old name", id.dir,
			strings.TrimPrefix(leaf.Subject.CommonName, link.NodePrefix), id.name)
	}
	if id.token != nil && id.token.caHash != id.caHash() {
		return fmt.Errorf("uplink: %s holds the identity of a node of another cluster than the token's: use another data folder, or remove this one with: bramble reset --purge", id.dir)
	}
	return nil
}

func (id *identity) load() error {
	if err := id.loadKey(); err != nil {
		return err
	}
	if err := id.loadInstance(); err != nil {
		return err
	}
	if b, err := os.ReadFile(filepath.Join(id.dir, counterFile)); err == nil {
		// It must not begin anew: the server refuses a number that it has seen.
		n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", counterFile, err)
		}
		id.counter, id.reserved = n, n
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ca, err := readPEM(filepath.Join(id.dir, caFile))
	if err != nil || ca == nil {
		return err
	}
	if id.ca, err = x509.ParseCertificate(ca); err != nil {
		return fmt.Errorf("%s: %w", caFile, err)
	}
	id.certificate, err = readPEM(filepath.Join(id.dir, certificateFile))
	return err
}

func (id *identity) loadKey() error {
	path := filepath.Join(id.dir, keyFile)
	der, err := readPEM(path)
	if err != nil {
		return err
	}
	if der == nil {
		if id.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
		if der, err = x509.MarshalPKCS8PrivateKey(id.key); err != nil {
			return err
		}
		return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	var ok bool
	if id.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return fmt.Errorf("%s holds a %T, not an ECDSA key", keyFile, key)
	}
	return nil
}

func (id *identity) loadInstance() error {
	path := filepath.Join(id.dir, instanceFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		id.instance = randomHex(link.InstanceLength / 2)
		return writeFile(path, []byte(id.instance+"\n"))
	}
	id.instance = strings.TrimSpace(string(b))
	return err
}

func randomHex(n int) string {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(err) // never happens (crypto/rand)
	}
	return hex.EncodeToString(b)
}

// joined reports whether the node has a certificate.
func (id *identity) joined() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.certificate != nil
}

func (id *identity) caHash() string {
	if id.ca == nil {
		return ""
	}
	sum := sha256.Sum256(id.ca.Raw)
	return hex.EncodeToString(sum[:])
}

func (id *identity) cluster() string {
	if id.ca != nil {
		return link.ClusterID(id.caHash())
	}
	return link.ClusterID(id.token.caHash)
}

func (id *identity) roots() *x509.CertPool {
	if id.ca == nil {
		return nil
	}
	pool := x509.NewCertPool()
	pool.AddCert(id.ca)
	return pool
}

func (id *identity) caPEM() []byte {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.ca == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: id.ca.Raw})
}

// next counts a session. The number is on the disk, or below one that is, before it is used.
func (id *identity) next() (uint64, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.counter >= id.reserved {
		top := id.counter + reserve
		path, number := filepath.Join(id.dir, counterFile), []byte(strconv.FormatUint(top, 10)+"\n")
		err := writeFile(path, number)
		if errors.Is(err, syscall.ENOSPC) {
			err = durable.Overwrite(path, number) // it is never shorter than the one before
		}
		if err != nil {
			return 0, fmt.Errorf("uplink: counter of sessions: %w", err)
		}
		id.reserved = top
	}
	id.counter++
	return id.counter, nil
}

// credential is what the node says of itself in a handshake.
func (id *identity) credential() (link.Credential, error) {
	n, err := id.next()
	if err != nil {
		return link.Credential{}, err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	c := link.Credential{Name: id.name, Instance: id.instance, Counter: n, Certificate: id.certificate}
	if c.Certificate == nil {
		if c.Key, err = x509.MarshalPKIXPublicKey(id.key.Public()); err != nil {
			return c, fmt.Errorf("uplink: %w", err)
		}
		c.TokenID, c.TokenSecret = id.token.id, id.token.secret
	}
	return c, nil
}

// keep stores what the cluster gave: the authority first, because a certificate without it is of no use.
func (id *identity) keep(certificate, ca []byte) error {
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("uplink: certificate from the server: %w", err)
	}
	if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !key.Equal(id.key.Public()) {
		return errors.New("uplink: certificate from the server is for another key")
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if ca != nil {
		parsed, err := x509.ParseCertificate(ca)
		if err != nil {
			return fmt.Errorf("uplink: authority from the server: %w", err)
		}
		if err := writeFile(filepath.Join(id.dir, caFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
		id.ca = parsed
	}
	if err := writeFile(filepath.Join(id.dir, certificateFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	id.certificate, id.former = certificate, nil
	return nil
}

// rejoin gives up a certificate that the server does not take any more, if there is a token to get
// another one with. It does not when another board has taken the name: that board may just be off.
func (id *identity) rejoin(code link.RefuseCode) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.token == nil || id.certificate == nil || code != link.RefuseToken && code != link.RefuseCounter {
		return false
	}
	id.certificate, id.former = nil, id.certificate
	return true
}

// restore takes the given up certificate again, when the token is refused too. The node goes on
// without the server, and the token is not tried again.
func (id *identity) restore() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.former == nil {
		return false
	}
	id.certificate, id.former, id.token = id.former, nil, nil
	return true
}

// renewBefore is how long before its end a certificate is renewed. That it may have begun in the
// past, for boards that believe to be there, says nothing of its life.
const renewBefore = 100 * 24 * time.Hour

// renewAt is when a new certificate is to be asked for.
func (id *identity) renewAt() time.Time {
	id.mu.Lock()
	defer id.mu.Unlock()
	leaf, err := x509.ParseCertificate(id.certificate)
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter.Add(-min(renewBefore, leaf.NotAfter.Sub(leaf.NotBefore)/3))
}

func (id *identity) tlsCertificate() (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.certificate == nil {
		return nil, errors.New("uplink: the node has not joined yet")
	}
	return &tls.Certificate{Certificate: [][]byte{id.certificate}, PrivateKey: crypto.PrivateKey(id.key)}, nil
}

func readPEM(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", filepath.Base(path))
	}
	return block.Bytes, nil
}

// writeFile spares the card a write of what is there already.
func writeFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return durable.WriteFile(path, content, 0o600)
}
