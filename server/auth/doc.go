// Package auth holds the cluster's keys and the identities made from them: the certificate authority, the certificates of the API,
// of the administrator and of nodes, the key that signs service-account tokens, and the short-lived tokens with which a node joins.
//
// Invariant: private keys never leave the folder they were made in, and every file there is written whole or not at all. Certificates
// are valid from 2020 on, so that a board whose clock is behind can still verify them, and each is renewed inside the running
// process when a third of its life is left.
//
//	pki, err := auth.OpenPKI(filepath.Join(dataDir, "server", "pki"), auth.PKIOptions{})
//	getCertificate, err := pki.ServingCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
//	err = pki.WriteKubeconfig(filepath.Join(dataDir, "kubeconfig"), "https://127.0.0.1:6443")
package auth
