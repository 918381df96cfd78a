// Package api serves the Kubernetes API: upstream's REST storages and endpoint handlers for every built-in kind, on our store, behind
// our own router and handler chain.
//
// One table (table.go) says what is served: the groups, where their storages come from, which older versions are served by
// conversion from the same storages, and which writes are volatile. Nothing else in the package decides about that.
//
// Invariants:
//   - what a client is told is what upstream's API server of the same version would tell it;
//   - programs of the same process use the same handlers as everybody, without sockets, under their own identity and its rights;
//   - cluster IPs and node ports are never handed out twice, also across restarts.
//
// A server is made, used in process at once, and run:
//
//	s, err := api.New(ctx, api.Config{Store: db, PKI: pki, Listener: l, AdvertiseAddress: addr, ServiceCIDR: cidr, Logger: log})
//	client, err := kubernetes.NewForConfig(s.ClientConfig("system:serviceaccount:kube-system:job-controller"))
//	err = s.Run(ctx)
package api
