// Package etcd is the store that several machines share: upstream's own implementation of storage.Interface on an etcd cluster, and in
// front of it a copy of all objects in memory (store.Mirror), fed by one watch.
//
// Writes, and reads of one object, are upstream's and go to etcd. Lists and watches are answered from the copy, which is as current as
// the request wants it to be: for a consistent read etcd is asked how far it is, and the copy waited for. What etcd remembers and the
// copy does not, etcd is asked for.
//
// Invariants:
//   - a write is acknowledged when a majority of etcd's members has it on disk, and when the copy has it, so that what in this process
//     reads the copy sees every write that was acknowledged here;
//   - the copy never goes back: an etcd that does, or that holds other objects than it did (a restored backup), ends the process.
//
// Keys, values and their encryption are those of upstream's API server with the same --etcd-prefix; one key below it is Bramble's own
// (see Cluster).
//
//	s, err := etcd.Open(ctx, etcd.Options{Servers: []string{"https://10.0.0.1:2379"}, CAFile: ca, CertFile: cert, KeyFile: key}, pki.CAHash())
//	pods := s.Storage(store.Resource{Prefix: "/pods", Codec: codec, New: newPod})
package etcd
