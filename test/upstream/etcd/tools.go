//go:build tools

// Package etcd pins the etcd that tests run against: Debian's is too old (it lacks progress notifications). It is a
// module of its own, so that nothing of it is in Bramble's.
package etcd

import _ "go.etcd.io/etcd/server/v3"
