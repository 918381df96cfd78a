package auth

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"bramble.dev/internal/durable"
)

const adminUser = "bramble-admin"

// WriteKubeconfig writes the administrator's kubeconfig for the API at server, unless path has one for the same API whose
// certificate still has a good part of its life left.
func (p *PKI) WriteKubeconfig(path, server string) error {
	if p.keepsKubeconfig(path, server) {
		return nil
	}
	cert, key, err := p.ClientCertificate(adminUser, "system:masters")
	if err != nil {
		return err
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["bramble"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.ca.pem}
	c.AuthInfos[adminUser] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	c.Contexts["bramble"] = &clientcmdapi.Context{Cluster: "bramble", AuthInfo: adminUser}
	c.CurrentContext = "bramble"
	data, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return durable.WriteFile(path, data, 0o600)
}

func (p *PKI) keepsKubeconfig(path, server string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	c, err := clientcmd.Load(data)
	if err != nil {
		return false
	}
	cluster, user := c.Clusters["bramble"], c.AuthInfos[adminUser]
	if cluster == nil || user == nil || cluster.Server != server || !bytes.Equal(cluster.CertificateAuthorityData, p.ca.pem) {
		return false
	}
	cert, err := parseCertificate(user.ClientCertificateData)
	return err == nil && !p.due(cert)
}

// KeepKubeconfig writes the kubeconfig and writes it again whenever its certificate is due, until ctx is done.
func (p *PKI) KeepKubeconfig(ctx context.Context, path, server string) error {
	tick := time.NewTicker(12 * time.Hour)
	defer tick.Stop()
	for {
		if err := p.WriteKubeconfig(path, server); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
