package image

import (
	"context"
	"fmt"
	"os"
)

// ImportFile imports an archive by its name.
func (s *Store) ImportFile(ctx context.Context, path string) ([]Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	defer f.Close()
	return s.Import(ctx, f)
}
