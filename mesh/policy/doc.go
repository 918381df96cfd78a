// Package policy keeps NetworkPolicies on a node: one nftables table that says which new connections
// its isolated pods may receive and make.
//
// Set is given the whole configuration each time; what differs from the last one becomes one
// transaction, after one that makes the chains which are new to it (nft.Switch), so that no packet
// meets half of a change. The invariant: applying a change to any earlier state gives the same table
// as loading the configuration into an empty kernel.
//
// # What passes
//
// A pod is filtered by its own node alone, in both directions, in the hook that routed packets come
// through: behind the translation of Services and before that of sources, so that rules see pods'
// addresses. Packets between two pods of one node are routed as well (see mesh/bridge). What the node
// itself sends to its pods or gets from them does not pass that hook: probes, host processes, names
// and the way to the API always work, as upstream has it. So does what a pod sends to itself through
// a Service. Connections that exist go on when a policy changes; it holds for new ones. Pods in the
// host's network are the host.
//
// # Fail closed
//
// A pod's isolation is in the table before its link is made: Mesh.Attach sets it first and fails when
// it cannot. Who isolates a pod is decided here from the pod's own labels, not from what the server
// knows of its address; policies come in the same set as the pods that they select, so that a node
// never has the pod without them. Peers come apart from them: as long as one is not known nothing
// passes from or to it. A pod that the server has forgotten and that has not stopped yet stays isolated as
// it was, and begins and accepts no new connections.
//
// # The table
//
// The maps `ingress` and `egress` lead from the address of an isolated pod to a chain that jumps to
// the chain of each policy that selects it, and drops what none of them lets through. Pods that the
// same policies select share it. The addresses that a selector stands for are a set that all policies
// share: one pod that comes or goes is one element in each, whatever else there is.
//
//	f := policy.Open(kernel, policy.Options{Table: "bramble-1a2b3c-policy", Logger: log})
//	err := f.Set(ctx, policy.Config{...})
package policy
