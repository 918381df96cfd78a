package link

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
)

// ClusterKey is the key of the ClusterConfig in the shared set.
const ClusterKey = "cluster/config"

// ClusterConfig is what every node must know of the cluster; item cluster/config of the shared set.
type ClusterConfig struct {
	ID          string   `json:"id"`
	Incarnation string   `json:"incarnation,omitempty"`
	Domain      string   `json:"domain"`
	PodCIDR     string   `json:"podCIDR"`
	ServiceCIDR string   `json:"serviceCIDR"`
	DNS         string   `json:"dns"`
	VNI         uint32   `json:"vni"`
	Servers     []string `json:"servers,omitempty"` // URLs of the API
	Brokers     []string `json:"brokers,omitempty"` // URLs of brokers, so that a node follows a server that moves
	Version     string   `json:"version,omitempty"`
	// AcrossSites: pods' packets may travel between sites, unencrypted as they are.
	AcrossSites bool `json:"acrossSites,omitempty"`
	// DirectRoutes: hosts on one link reach each other's pods by routes, without the tunnel.
	DirectRoutes bool `json:"directRoutes,omitempty"`
	// OtherSites are those whose pods the node's own do not reach; "" is that of nodes without a label.
	OtherSites []string `json:"otherSites,omitempty"`
}

// OwnPorts are the TCP ports on which the cluster's servers and brokers listen at addresses that the caller knows as a board's. No
// pod gets them as its hostPort: from that moment nobody would reach the cluster.
func (c *ClusterConfig) OwnPorts(at func(address string) bool) (ports []int32) {
	for _, s := range slices.Concat(c.Servers, c.Brokers) {
		u, err := url.Parse(s)
		if err != nil || !at(u.Hostname()) {
			continue
		}
		if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
			ports = append(ports, int32(n))
		}
	}
	return ports
}

// SiteLabel of a Node says where it is; nodes of one site reach each other directly. It is not
// topology.kubernetes.io/zone: zones are about failing together, and pods of two zones may well talk.
const SiteLabel = "topology.bramble.dev/site"

// Peer is another node; item peers/<node> of the shared set.
type Peer struct {
	Node    string `json:"node"`
	IP      string `json:"ip"`
	PodCIDR string `json:"podCIDR"`
	MAC     string `json:"mac,omitempty"` // of its VXLAN device
	Site    string `json:"site,omitempty"`
}

// Encode gives the value of an item.
func (c ClusterConfig) Encode() ([]byte, error) { return json.Marshal(c) }

// DecodeClusterConfig reads an item.
func DecodeClusterConfig(b []byte) (c ClusterConfig, err error) {
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("link: cluster config: %w", err)
	}
	return c, nil
}

// Encode gives the value of an item.
func (p Peer) Encode() ([]byte, error) { return json.Marshal(p) }

// DecodePeer reads an item.
func DecodePeer(b []byte) (p Peer, err error) {
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("link: peer: %w", err)
	}
	return p, nil
}
