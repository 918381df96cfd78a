package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// writer creates ConfigMaps over a connection of its own (HTTP/1.1, protobuf), with hardly any work: it shares the machine's cores with
// the server that is measured, and client-go took two of five parts of them.
type writer struct {
	conn    net.Conn
	read    *bufio.Reader
	head    []byte // of a request, up to the length of its body
	request []byte
}

func newWriter(config *rest.Config) (*writer, error) {
	server, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	security, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	security.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", server.Host, security)
	if err != nil {
		return nil, err
	}
	head := fmt.Appendf(nil, "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nContent-Type: %s\r\nAccept: %s\r\n",
		server.Host, runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf)
	if config.BearerToken != "" {
		head = fmt.Appendf(head, "Authorization: Bearer %s\r\n", config.BearerToken)
	}
	return &writer{conn: conn, read: bufio.NewReader(conn), head: append(head, "Content-Length: "...)}, nil
}

func (w *writer) close() { w.conn.Close() }

// create makes one and waits for the answer.
func (w *writer) create(name string) error {
	body, err := encoded(configMap(name))
	if err != nil {
		return err
	}
	w.request = strconv.AppendInt(append(w.request[:0], w.head...), int64(len(body)), 10)
	w.request = append(append(w.request, "\r\n\r\n"...), body...)
	if _, err := w.conn.Write(w.request); err != nil {
		return err
	}
	res, err := http.ReadResponse(w.read, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusCreated {
		err = fmt.Errorf("create %s: %s: %q", name, res.Status, answer)
	}
	return err
}

// encoded is Kubernetes' form of protobuf: four bytes, and what kind it is around the object.
func encoded(m *corev1.ConfigMap) ([]byte, error) {
	raw, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	outer, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Raw: raw}).Marshal()
	return append([]byte("k8s\x00"), outer...), err
}

// configMap is 1.5 KB that a compressor shortens about as much as it does real configuration.
func configMap(name string) *corev1.ConfigMap {
	b := make([]byte, 0, 1536)
	for i := int64(0); len(b) < 1400; i++ {
		b = append(append(b, "setting."...), name...)
		b = strconv.AppendInt(append(b, '.'), i, 10)
		b = strconv.AppendInt(append(b, '='), i*2654435761, 16)
		b = append(b, '\n')
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"config": string(b)}}
}
