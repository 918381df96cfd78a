package server

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func goodConfig(dir string) Config {
	return Config{DataDir: dir, APIListen: "127.0.0.1:0", MQTTListen: "127.0.0.1:0", Domain: "cluster.local",
		PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}
}

func TestCheck(t *testing.T) {
	pods := func(s string) func(*Config) { return func(c *Config) { c.PodCIDR = netip.MustParsePrefix(s) } }
	services := func(s string) func(*Config) { return func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix(s) } }
	domain := func(s string) func(*Config) { return func(c *Config) { c.Domain = s } }
	tests := []struct {
		name   string
		change func(*Config)
		want   []string // none: it is accepted
	}{
		{"defaults", func(*Config) {}, nil},
		{"smallest pod range", pods("10.42.0.8/29"), nil},
		{"smallest service range", services("10.43.0.16/28"), nil},
		{"pod range without room", pods("10.42.0.0/30"), []string{"--pod-cidr 10.42.0.0/30", "/29"}},
		{"service range without room", services("10.43.0.0/31"), []string{"--service-cidr 10.43.0.0/31", "/28"}},
		{"eight services", services("10.43.0.0/29"), []string{"--service-cidr", "/28"}},
		{"IPv6 pods", pods("fd00::/48"), []string{"--pod-cidr fd00::/48", "IPv4"}},
		{"IPv6 services", services("fd00::/112"), []string{"--service-cidr fd00::/112", "IPv4"}},
		{"an address for a range", services("10.43.0.5/16"), []string{"--service-cidr 10.43.0.5/16", "10.43.0.0/16"}},
		{"an address for the pods' range", pods("10.42.7.0/16"), []string{"--pod-cidr 10.42.7.0/16", "10.42.0.0/16"}},
		{"loopback", pods("127.0.0.0/16"), []string{"--pod-cidr", "127.0.0.0/8"}},
		{"multicast", services("224.0.0.0/16"), []string{"--service-cidr", "224.0.0.0/3"}},
		{"overlap", services("10.42.128.0/17"), []string{"--pod-cidr", "--service-cidr", "overlap"}},
		{"no range", func(c *Config) { c.PodCIDR = netip.Prefix{} }, []string{"--pod-cidr is empty"}},
		{"two at once", func(c *Config) { pods("10.42.0.0/30")(c); services("10.43.0.0/31")(c) }, []string{"--pod-cidr", "--service-cidr"}},
		{"no port", func(c *Config) { c.APIListen = "10.0.0.1" }, []string{`--api-listen "10.0.0.1"`, "host:port"}},
		{"a port out of range", func(c *Config) { c.MQTTListen = "10.0.0.1:70000" }, []string{"--mqtt-listen", `"70000"`, "65535"}},
		{"a port by name", func(c *Config) { c.APIListen = ":https" }, []string{"--api-listen", "host:port"}},
		{"an outside broker needs no port", func(c *Config) { c.Broker, c.MQTTListen = "mqtts://b", "" }, nil},
		{"a broker that is no URL", func(c *Config) { c.Broker = "foo" }, []string{"--broker", "mqtts://foo"}},
		{"a broker of an authority that is not there", func(c *Config) { c.Broker, c.BrokerCA = "mqtts://b", "/nowhere/ca.crt" }, []string{"--broker-ca", "/nowhere/ca.crt"}},
		{"a broker of an authority that is none", func(c *Config) { c.Broker, c.BrokerCA = "mqtts://b", "/dev/null" }, []string{"--broker-ca: /dev/null holds no certificate in PEM"}},
		{"an authority for the agent alone", func(c *Config) { c.BrokerCA = "/nowhere/ca.crt" }, nil},
		{"an address that is none", func(c *Config) { c.Advertise = "pi" }, []string{`--advertise-address "pi"`}},
		{"no domain", domain(""), []string{"--cluster-domain"}},
		{"a domain with an underscore", domain("my_cluster"), []string{`--cluster-domain "my_cluster"`}},
		{"a domain with two dots", domain("a..b"), []string{`--cluster-domain "a..b"`}},
		{"a domain with a dot at its end", domain("cluster.local."), []string{`--cluster-domain "cluster.local."`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := goodConfig("/nowhere")
			tt.change(&c)
			err := c.check()
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("error %v", err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v: does not name %s", err, w)
				}
			}
		})
	}
}

// TestRefusedStart: what cannot work leaves nothing behind, and the remedy fits the cause.
func TestRefusedStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name      string
		change    func(*Config)
		want, not string
	}{
		{"range", func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("10.43.0.0/31") }, "--service-cidr", "port"},
		{"broker", func(c *Config) { c.Broker = "foo" }, "--broker", "port"},
		{"taken API port", func(c *Config) { c.APIListen = taken.Addr().String() }, "--api-listen " + taken.Addr().String(), "ip address"},
		{"taken MQTT port", func(c *Config) { c.MQTTListen = taken.Addr().String() }, "choose another port", "ip address"},
		{"another's address", func(c *Config) { c.APIListen = "192.0.2.1:6443" }, "192.0.2.1 is no address of this machine", "another port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := goodConfig(filepath.Join(t.TempDir(), "new"))
			tt.change(&c)
			err := Run(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), tt.not) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(c.DataDir); !os.IsNotExist(err) {
				t.Errorf("the refused start left its folder: %v", err)
			}
		})
	}
}
