package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bramble.dev/internal/durable"
	"bramble.dev/internal/lockfile"
)

// SecretsKeys encrypt Secrets in the store (AES-256): the first does, and the others are those that it did before, for what is not
// written anew yet. They lie beside what they protect unless the folder is kept elsewhere.
func (p *PKI) SecretsKeys() [][]byte { return p.secretsKeys }

// AddSecretsKey puts a new key in front of those in a folder of keys. A server uses it from its next start on.
func AddSecretsKey(dir string) error {
	path := filepath.Join(dir, secretsKeyFile)
	held, err := lockSecretsKeys(dir)
	if err != nil {
		return err
	}
	defer held.Release()
	keys, err := readSecretsKeys(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is not there: no server has run on this folder", path)
	} else if err != nil {
		return err
	}
	return writeSecretsKeys(path, slices.Insert(keys, 0, newSecretsKey()))
}

// JoinSecretsKeys adds to a copy of a folder of keys the keys of Secrets that the folder has by now, in front of its own.
func JoinSecretsKeys(copied, dir string) error {
	path := filepath.Join(copied, secretsKeyFile)
	had, err := readSecretsKeys(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	keys, err := readSecretsKeys(filepath.Join(dir, secretsKeyFile))
	if errors.Is(err, os.ErrNotExist) && had == nil {
		return nil // there is none yet
	} else if err != nil {
		return err
	}
	for _, k := range had {
		if !contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return writeSecretsKeys(path, keys)
}

// DropSecretsKeys takes away all keys that this server knows but the first. It leaves one that was added since.
func (p *PKI) DropSecretsKeys() error {
	path := filepath.Join(p.dir, secretsKeyFile)
	held, err := lockSecretsKeys(p.dir)
	if err != nil {
		return err
	}
	defer held.Release()
	keys, err := readSecretsKeys(path)
	if err != nil {
		return err
	}
	if !contains(keys, p.secretsKeys[0]) {
		return fmt.Errorf("pki: %s lacks the key that this server encrypts with since it started: somebody has changed the file, and nothing is taken out of it", path)
	}
	old := p.secretsKeys[1:]
	return writeSecretsKeys(path, slices.DeleteFunc(keys, func(k []byte) bool { return contains(old, k) }))
}

func contains(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

// lockSecretsKeys keeps a second process, or goroutine, from the file of keys. The lock lies beside the folder: a backup has all that
// is in it.
func lockSecretsKeys(dir string) (*lockfile.Lock, error) {
	held, err := lockfile.Take(dir + ".lock")
	if errors.Is(err, lockfile.ErrHeld) {
		return nil, fmt.Errorf("another process is changing the keys in %s: try again", dir)
	}
	return held, err
}

// openSecretsKeys reads the keys, or makes one at its first use. None is ever made anew where one was: without it Secrets are lost.
func (p *PKI) openSecretsKeys() ([][]byte, error) {
	path := filepath.Join(p.dir, secretsKeyFile)
	keys, err := readSecretsKeys(path)
	if errors.Is(err, os.ErrNotExist) {
		keys = [][]byte{newSecretsKey()}
		return keys, writeSecretsKeys(path, keys)
	}
	return keys, err
}

func newSecretsKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}

// readSecretsKeys reads a file with a key in hexadecimal on each line.
func readSecretsKeys(path string) (keys [][]byte, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	for line := range strings.FieldsSeq(string(text)) {
		key, err := hex.DecodeString(line)
		if err != nil || len(key) != 32 {
			return nil, damaged(path)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, damaged(path)
	}
	return keys, nil
}

func damaged(path string) error {
	return fmt.Errorf("pki: %s has something else than keys of 32 bytes in hexadecimal, one a line: restore the file from a backup of the data folder", path)
}

func writeSecretsKeys(path string, keys [][]byte) error {
	var text strings.Builder
	for _, key := range keys {
		text.WriteString(hex.EncodeToString(key) + "\n")
	}
	return durable.WriteFile(path, []byte(text.String()), 0o600)
}
