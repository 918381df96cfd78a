package garbage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/server/cache"
)

const retryAfter = time.Second

var protobufPrefix = []byte("k8s\x00")

// metadataOf reads an encoded object's metadata: all kinds keep it in the same place.
func metadataOf(value []byte) (*metav1.PartialObjectMetadata, error) {
	m := &metav1.PartialObjectMetadata{}
	raw, isProtobuf := bytes.CutPrefix(value, protobufPrefix)
	if !isProtobuf {
		return m, json.Unmarshal(value, m)
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(raw); err != nil {
		return nil, err
	}
	return m, m.Unmarshal(envelope.Raw)
}

// follow feeds the graph with one resource until ctx is done.
func (c *Controller) follow(ctx context.Context, resource schema.GroupResource, prefix string, f cache.Follower, err error) {
	for {
		if err == nil {
			err = c.changes(ctx, resource, prefix, f)
			f.Close()
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, cache.ErrTooOld) {
			c.Log.Error("garbage collection lost a resource", "resource", resource.String(), "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryAfter):
			}
		}
		f, err = c.start(resource, prefix)
	}
}

// start takes in what is there; what the graph knows and the snapshot does not
// was deleted meanwhile.
func (c *Controller) start(resource schema.GroupResource, prefix string) (cache.Follower, error) {
	f, err := c.Source.Follow(prefix)
	if err != nil {
		return nil, err
	}
	present := map[types.UID]bool{}
	for _, kv := range f.Snapshot() {
		if m, err := metadataOf(kv.Value); err == nil {
			present[m.UID] = true
			c.graph.observe(resource, m)
		}
	}
	c.graph.only(resource, present)
	return f, nil
}

func (c *Controller) changes(ctx context.Context, resource schema.GroupResource, prefix string, f cache.Follower) error {
	for {
		events, err := f.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			c.change(resource, prefix, e)
		}
	}
}

func (c *Controller) change(resource schema.GroupResource, prefix string, e cache.Event) {
	value := e.Value
	if value == nil {
		value = e.Previous
	}
	m, err := metadataOf(value)
	if err != nil || m.UID == "" {
		if e.Value == nil {
			c.removeByKey(resource, strings.Trim(strings.TrimPrefix(e.Key, prefix), "/"))
		}
		return
	}
	if e.Value == nil {
		c.graph.remove(m.UID)
		return
	}
	c.graph.observe(resource, m)
}

// removeByKey serves deletions of what cannot be read any more.
func (c *Controller) removeByKey(resource schema.GroupResource, key string) {
	for _, id := range c.graph.of(resource) {
		if key == id.name || key == id.namespace+"/"+id.name {
			c.graph.remove(id.uid)
		}
	}
}
