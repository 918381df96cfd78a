package snapshot

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Room refuses bytes for which the disk that an open file lies on has no room, before it has been filled: the node's
// databases may lie on it too.
func Room(fd int, bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * int64(st.Bsize); bytes > free {
		return fmt.Errorf("%d bytes are needed, the disk has room for %d: %w", bytes, free, unix.ENOSPC)
	}
	return nil
}
