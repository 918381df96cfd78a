package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const hostsHeader = "# Kubernetes-managed hosts file.\n"

const hostsHeaderHostNetwork = "# Kubernetes-managed hosts file (host network).\n"

// Hostname is the name that a pod's containers see, and the domain of its fully qualified name
// ("" if it has none).
func Hostname(pod *corev1.Pod, clusterDomain string) (host, domain string, err error) {
	if o := pod.Spec.HostnameOverride; o != nil {
		if errs := validation.IsDNS1123Subdomain(*o); len(errs) != 0 {
			return "", "", fmt.Errorf("pod HostnameOverride %q is not a valid DNS subdomain: %s", *o, strings.Join(errs, ";"))
		}
		return shorten(*o), "", nil
	}
	host = pod.Name
	if pod.Spec.Hostname != "" {
		if errs := validation.IsDNS1123Label(pod.Spec.Hostname); len(errs) != 0 {
			return "", "", fmt.Errorf("pod Hostname %q is not a valid DNS label: %s", pod.Spec.Hostname, strings.Join(errs, ";"))
		}
		host = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		if errs := validation.IsDNS1123Label(pod.Spec.Subdomain); len(errs) != 0 {
			return "", "", fmt.Errorf("pod Subdomain %q is not a valid DNS label: %s", pod.Spec.Subdomain, strings.Join(errs, ";"))
		}
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return shorten(host), domain, nil
}

// shorten cuts a host name to what the kernel takes.
func shorten(name string) string {
	if len(name) <= 63 {
		return name
	}
	return strings.TrimRight(name[:63], "-.")
}

// UTSName is the name that the pod's UTS namespace gets: the short name, or the qualified one
// when the pod wants that.
func UTSName(pod *corev1.Pod, clusterDomain string) (string, error) {
	host, domain, err := Hostname(pod, clusterDomain)
	if err != nil {
		return "", err
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN && domain != "" {
		full := host + "." + domain
		if len(full) > 64 {
			return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", full, len(full))
		}
		return full, nil
	}
	return host, nil
}

// Hosts is the content of a pod's /etc/hosts. nodeHosts is the node's own file, which pods in the
// host's network start from.
func Hosts(pod *corev1.Pod, ips []string, host, domain, nodeHosts string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString(hostsHeaderHostNetwork)
		b.WriteString(nodeHosts)
	} else {
		b.WriteString(hostsHeader)
		b.WriteString("127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, host, domain, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

// DNS is a resolver's configuration.
type DNS struct {
	Servers, Searches, Options []string
}

// The limits of resolv.conf that the API knows.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// ParseResolvConf reads the node's own configuration.
func ParseResolvConf(content string) DNS {
	var d DNS
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.Servers = append(d.Servers, fields[1])
		case "search":
			d.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					d.Searches = append(d.Searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			d.Options = mergeOptions(d.Options, fields[1:])
		}
	}
	return d
}

// PodDNS is what a pod's resolv.conf says, with the events that the limits lead to.
func PodDNS(pod *corev1.Pod, node DNS, clusterDNS []string, clusterDomain string) (DNS, []string) {
	var d DNS
	var warnings []string
	switch policy := pod.Spec.DNSPolicy; {
	case policy == corev1.DNSNone:
	case policy == corev1.DNSDefault, policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork:
		d = node
	case len(clusterDNS) == 0:
		warnings = append(warnings, fmt.Sprintf("pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.", Full(pod), corev1.DNSClusterFirst, corev1.DNSDefault))
		d = node
	default:
		d.Servers = clusterDNS
		d.Searches = node.Searches
		if clusterDomain != "" {
			d.Searches = unique(append([]string{pod.Namespace + ".svc." + clusterDomain, "svc." + clusterDomain, clusterDomain}, node.Searches...))
		}
		d.Options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		d.Servers = unique(append(slices.Clone(d.Servers), c.Nameservers...))
		d.Searches = unique(append(slices.Clone(d.Searches), c.Searches...))
		var more []string
		for _, o := range c.Options {
			if o.Value != nil && *o.Value != "" {
				more = append(more, o.Name+":"+*o.Value)
			} else {
				more = append(more, o.Name)
			}
		}
		d.Options = mergeOptions(d.Options, more)
	}
	return fit(d, warnings)
}

func fit(d DNS, warnings []string) (DNS, []string) {
	if len(d.Servers) > maxServers {
		d.Servers = d.Servers[:maxServers]
		warnings = append(warnings, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(d.Servers, " "))
	}
	searches := slices.DeleteFunc(slices.Clone(d.Searches), func(s string) bool { return len(s) > validation.DNS1123SubdomainMaxLength })
	if len(searches) > maxSearches {
		searches = searches[:maxSearches]
	}
	for len(strings.Join(searches, " ")) > maxSearchChars {
		searches = searches[:len(searches)-1]
	}
	if len(searches) != len(d.Searches) {
		d.Searches = searches
		warnings = append(warnings, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(searches, " "))
	}
	return d, warnings
}

// mergeOptions lets the later of two options of one name win, and keeps the order.
func mergeOptions(options, more []string) []string {
	out := slices.Clone(options)
	for _, o := range more {
		name, _, _ := strings.Cut(o, ":")
		at := slices.IndexFunc(out, func(s string) bool { n, _, _ := strings.Cut(s, ":"); return n == name })
		if at >= 0 {
			out[at] = o
		} else {
			out = append(out, o)
		}
	}
	return out
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// ResolvConf is the file.
func (d DNS) ResolvConf() string {
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.String()
}
