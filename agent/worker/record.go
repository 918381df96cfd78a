package worker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// encode is a memory as it lies in the database: three parts, each behind its length. The pod is
// kept only when the server no longer does.
func (m *Memory) encode(withPod bool) ([]byte, error) {
	facts, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a pod's record: %w", err)
	}
	status, err := m.Status.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode a pod's status: %w", err)
	}
	var pod []byte
	if withPod && m.Pod != nil {
		if pod, err = m.Pod.Marshal(); err != nil {
			return nil, fmt.Errorf("encode a pod: %w", err)
		}
	}
	var out []byte
	for _, part := range [][]byte{facts, status, pod} {
		out = binary.AppendUvarint(out, uint64(len(part)))
		out = append(out, part...)
	}
	return out, nil
}

var errRecord = errors.New("a pod's record is malformed")

func decode(b []byte) (Memory, error) {
	var parts [3][]byte
	for i := range parts {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return Memory{}, errRecord
		}
		parts[i], b = b[used:used+int(n)], b[used+int(n):]
	}
	var m Memory
	if err := json.Unmarshal(parts[0], &m); err != nil {
		return Memory{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	if err := m.Status.Unmarshal(parts[1]); err != nil {
		return Memory{}, fmt.Errorf("%w: %w", errRecord, err)
	}
	if len(parts[2]) > 0 {
		m.Pod = &corev1.Pod{}
		if err := m.Pod.Unmarshal(parts[2]); err != nil {
			return Memory{}, fmt.Errorf("%w: %w", errRecord, err)
		}
	}
	return m, nil
}
