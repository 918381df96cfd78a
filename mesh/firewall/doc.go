// Package firewall keeps a host's own firewall from dropping the mesh's packets.
//
// Docker and ufw set iptables' FORWARD policy to DROP, ufw also INPUT's; a rule in a table of ours
// cannot take that back, because any table may drop. So where a policy drops, Set puts rules into the
// place that is meant for it: Docker's chain DOCKER-USER, or else a chain of our own that FORWARD and
// INPUT jump to. It says so once. What it cannot mend (somebody's nftables rules, no iptables) it
// names, with the remedy. Where nothing drops, nothing is touched, and Teardown takes back all.
//
//	f := firewall.Open(firewall.Options{Instance: "1a2b3c", Bridge: "br-1a2b3c", Logger: log})
//	err := f.Set(ctx, firewall.Config{TunnelPort: 8472})
package firewall
