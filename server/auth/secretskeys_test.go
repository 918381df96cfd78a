package auth

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func openedKeys(t *testing.T, dir string) *PKI {
	t.Helper()
	p, err := OpenPKI(dir, PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func addKey(t *testing.T, dir string) {
	t.Helper()
	if err := AddSecretsKey(dir); err != nil {
		t.Fatal(err)
	}
}

// A key that is added while the older ones are taken away stays.
func TestAKeyThatComesMeanwhile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	openedKeys(t, dir)
	addKey(t, dir)
	addKey(t, dir)
	pki := openedKeys(t, dir)
	addKey(t, dir)
	if err := pki.DropSecretsKeys(); err != nil {
		t.Fatal(err)
	}
	left := openedKeys(t, dir).SecretsKeys()
	if len(left) != 2 || !bytes.Equal(left[1], pki.SecretsKeys()[0]) {
		t.Errorf("%d keys are left", len(left))
	}
}

// The key in use is never the one that is lost, whatever somebody does to the file.
func TestAFileThatWasPutBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	file := filepath.Join(dir, secretsKeyFile)
	openedKeys(t, dir)
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	addKey(t, dir)
	pki := openedKeys(t, dir)
	if err := os.WriteFile(file, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pki.DropSecretsKeys(); err == nil || !strings.Contains(err.Error(), "lacks the key") {
		t.Errorf("error %v", err)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, old) {
		t.Errorf("%q, %v", now, err)
	}
	if err := AddSecretsKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no server has run") {
		t.Errorf("a folder without keys: %v", err)
	}
}

// A copy of the keys from before a database was copied, with those of after it, reads that database.
func TestJoinSecretsKeys(t *testing.T) {
	dir, copied := filepath.Join(t.TempDir(), "pki"), filepath.Join(t.TempDir(), "pki")
	first := openedKeys(t, dir).SecretsKeys()[0]
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	addKey(t, dir)
	pki := openedKeys(t, dir)
	if err := pki.DropSecretsKeys(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := JoinSecretsKeys(copied, dir); err != nil {
			t.Fatal(err)
		}
		if got, want := openedKeys(t, copied).SecretsKeys(), [][]byte{pki.SecretsKeys()[0], first}; !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%x, want %x", got, want)
		}
	}
}
