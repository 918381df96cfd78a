package agent

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// board is a random word that this board keeps in its folder. The names of links come from the data folder's path, which
// is the same on most boards; Ethernet addresses made from that alone would be the same too, and a tunnel drops what
// seems to come from itself.
func board(dir string) (string, error) {
	path := filepath.Join(dir, "board")
	if data, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(data))) > 0 {
		return strings.TrimSpace(string(data)), nil
	}
	word := make([]byte, 8)
	_, _ = rand.Read(word) // never fails: it ends the process instead
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the mesh's folder: %w", err)
	}
	// A word that a power cut takes back is made anew: the peers are told the address when the node connects.
	if err := os.WriteFile(path, []byte(hex.EncodeToString(word)+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the board's word: %w", err)
	}
	return hex.EncodeToString(word), nil
}
