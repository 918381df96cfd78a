package server

import (
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation"

	"bramble.dev/server/broker"
)

// The smallest ranges that work: a node's subnet needs a gateway and a few pods, and the cluster's DNS has the tenth
// address of the service range.
const (
	maxPodBits     = 29
	maxServiceBits = 28
)

// unusable are addresses that no pod and no Service can have: this host, multicast and what is reserved.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/3"),
}

// check refuses what cannot work, before anything is opened. All that is wrong is said at once.
func (c *Config) check() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("--data-dir is empty: name a folder"))
	}
	errs = append(errs, checkHostPort("--api-listen", c.APIListen))
	if c.Broker == "" {
		errs = append(errs, checkHostPort("--mqtt-listen", c.MQTTListen))
	} else if err := broker.CheckURL(c.Broker); err != nil {
		errs = append(errs, fmt.Errorf("--broker: %w", err))
	} else if _, err := c.brokerTLS(); err != nil {
		errs = append(errs, err)
	}
	if c.Etcd != nil {
		errs = append(errs, c.Etcd.Check())
		if c.Broker == "" {
			errs = append(errs, errors.New("--store etcd is for more than one server, and an embedded broker ends with its own: name one that all of them reach with --broker"))
		}
	}
	if c.Advertise != "" {
		if a, err := netip.ParseAddr(c.Advertise); err != nil || a.IsUnspecified() || a.Zone() != "" {
			errs = append(errs, fmt.Errorf("--advertise-address %q: want an address of this machine that nodes reach, such as 192.168.1.2", c.Advertise))
		}
	}
	if wrong := validation.IsDNS1123Subdomain(c.Domain); len(wrong) > 0 {
		errs = append(errs, fmt.Errorf("--cluster-domain %q is no DNS name: want lower-case letters, digits and '-' in parts between single dots, such as cluster.local", c.Domain))
	}
	pods := checkRange("--pod-cidr", c.PodCIDR, maxPodBits, "the subnet of one node", "10.42.0.0/16")
	services := checkRange("--service-cidr", c.ServiceCIDR, maxServiceBits, "ten Services, of which the cluster's DNS is one", "10.43.0.0/16")
	errs = append(errs, pods, services)
	if pods == nil && services == nil && c.PodCIDR.Overlaps(c.ServiceCIDR) {
		errs = append(errs, fmt.Errorf("--pod-cidr %s and --service-cidr %s overlap: give one of them another range", c.PodCIDR, c.ServiceCIDR))
	}
	return errors.Join(errs...)
}

func checkRange(flag string, p netip.Prefix, bits int, room, example string) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%s is empty: want a range such as %s", flag, example)
	case !p.Addr().Is4():
		return fmt.Errorf("%s %s is not IPv4, which the cluster's network is made of: want a range such as %s", flag, p, example)
	case p != p.Masked():
		return fmt.Errorf("%s %s is an address within a range: did you mean %s?", flag, p, p.Masked())
	case p.Bits() > bits:
		return fmt.Errorf("%s %s has no room for %s: want a /%d or larger, such as %s", flag, p, room, bits, example)
	}
	for _, u := range unusable {
		if p.Overlaps(u) {
			return fmt.Errorf("%s %s holds addresses of %s, which have a meaning of their own: want a private range such as %s", flag, p, u, example)
		}
	}
	return nil
}
