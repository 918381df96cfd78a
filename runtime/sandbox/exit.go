package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
)

// ReadExit reads what the shim has written about a container's end.
func ReadExit(file string) (Exit, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Exit{}, err
	}
	e, err := parseExit(b)
	if err != nil {
		return e, fmt.Errorf("read %s: %w", file, err)
	}
	return e, nil
}

func parseExit(b []byte) (Exit, error) {
	var e Exit
	if !bytes.HasSuffix(b, []byte("\nend\n")) {
		return e, errors.New("it is cut off")
	}
	for line := range bytes.Lines(b) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte{'='})
		if !ok {
			continue // the end
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			return e, fmt.Errorf("%s is no number: %w", key, err)
		}
		switch string(key) {
		case "code":
			e.Code = int32(n)
		case "oom":
			e.OOM = n != 0
		case "failed":
			e.Failed = n != 0
		case "started":
			if n > 0 {
				e.StartedAt = time.Unix(0, n)
			}
		case "finished":
			e.FinishedAt = time.Unix(0, n)
		}
	}
	return e, nil
}
