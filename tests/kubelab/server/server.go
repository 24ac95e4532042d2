// Package server is the control plane: certificates, datastore, API server, controllers and scheduler.
package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"hepto/kubelab/component"
	"hepto/kubelab/join"
	"hepto/kubelab/pki"
	"hepto/kubelab/process"
	"hepto/kubelab/setting"
)

// Kubeconfig is the administrator's, where k3s writes it.
const Kubeconfig = "/etc/rancher/k3s/k3s.yaml"

// Server is the control plane of a cluster.
type Server struct {
	settings *setting.Settings
	family   *process.Family
	folder   string
}

// New is the control plane that the settings describe; nothing is made yet.
func New(settings *setting.Settings, family *process.Family) *Server {
	return &Server{settings, family, filepath.Join(settings.Text("data-dir"), "server")}
}

// Start makes what is missing and starts everything; it returns when the API is ready.
func (s *Server) Start(ctx context.Context) error {
	for _, step := range []func() error{s.certificates, s.tokens, s.cluster, s.encryption, s.kubeconfigs} {
		if err := step(); err != nil {
			return err
		}
	}
	endpoint, err := datastore(ctx, s.folder)
	if err != nil {
		return err
	}
	arguments := append([]string{s.folder}, s.apiserver(endpoint)...)
	if err := s.family.Own(component.APIServer, arguments...); err != nil {
		return err
	}
	if err := prepare(ctx, s.admin()); err != nil {
		return err
	}
	if err := s.family.Own("kube-controller-manager", s.controllers()...); err != nil {
		return err
	}
	return s.family.Own("kube-scheduler", s.scheduler()...)
}

func (s *Server) tls(name string) string  { return filepath.Join(s.folder, "tls", name) }
func (s *Server) cred(name string) string { return filepath.Join(s.folder, "cred", name) }
func (s *Server) admin() string           { return s.cred("admin.kubeconfig") }

// certificates makes k3s's authorities and the control plane's own certificates.
func (s *Server) certificates() error {
	authorities := map[string]*pki.Authority{}
	for _, name := range []string{"server-ca", "client-ca", "request-header-ca"} {
		authority, err := pki.Open(s.tls(""), name)
		if err != nil {
			return err
		}
		authorities[name] = authority
	}
	masters := []string{"system:masters"}
	for name, subject := range map[string]pki.Subject{
		"client-admin":          {Name: "system:admin", Groups: masters},
		"client-kube-apiserver": {Name: "system:apiserver", Groups: masters},
		"client-controller":     {Name: "system:kube-controller-manager"},
		"client-scheduler":      {Name: "system:kube-scheduler"},
	} {
		if err := authorities["client-ca"].Pair(s.tls(""), name, subject); err != nil {
			return err
		}
	}
	proxy := pki.Subject{Name: "system:auth-proxy"}
	if err := authorities["request-header-ca"].Pair(s.tls(""), "client-auth-proxy", proxy); err != nil {
		return err
	}
	serving := pki.Subject{Name: "kube-apiserver", Serving: true, SANs: s.names()}
	if err := authorities["server-ca"].Pair(s.tls(""), "serving-kube-apiserver", serving); err != nil {
		return err
	}
	key, err := pki.Key(s.tls("service.key"))
	if err != nil {
		return err
	}
	public, err := pki.Public(key)
	if err != nil {
		return err
	}
	return pki.Write(s.tls("service.pub"), public)
}

// names are all by which the API is asked for.
func (s *Server) names() []string {
	names := []string{"127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	names = append(names, "kubernetes.default.svc.cluster.local")
	names = append(names, s.settings.List("tls-san")...)
	for _, cidr := range s.settings.List("service-cidr") {
		names = append(names, nth(cidr, 1))
	}
	return names
}

// tokens keeps what nodes have to show, where k3s keeps it too.
func (s *Server) tokens() error {
	for flag, file := range map[string]string{"token-file": "token", "agent-token-file": "agent-token"} {
		token, err := s.settings.Token(flag)
		if err != nil {
			return err
		}
		if err := pki.Write(filepath.Join(s.folder, file), []byte(token)); err != nil {
			return err
		}
	}
	return nil
}

// cluster writes what agents are told.
func (s *Server) cluster() error {
	cluster := join.Cluster{
		PodCIDRs: s.settings.List("cluster-cidr"), ServiceCIDRs: s.settings.List("service-cidr"),
		IPv6Masq: s.settings.On("flannel-ipv6-masq"),
	}
	for _, cidr := range cluster.ServiceCIDRs {
		if _, _, err := net.ParseCIDR(cidr); err != nil {
			return fmt.Errorf("service-cidr: %w", err)
		}
		cluster.DNS = append(cluster.DNS, nth(cidr, 10))
	}
	text, err := json.Marshal(cluster)
	if err != nil {
		return err
	}
	return pki.Write(s.cred("cluster.json"), text)
}

// encryption makes the key by which secrets lie encrypted in the datastore.
func (s *Server) encryption() error {
	path := s.cred("encryption-config.json")
	if _, err := os.Stat(path); err == nil || !s.settings.On("secrets-encryption") {
		return nil
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails on Linux
	provider := map[string]any{"aescbc": map[string]any{
		"keys": []map[string]string{{"name": "aescbckey", "secret": base64.StdEncoding.EncodeToString(key)}},
	}}
	text, err := json.Marshal(map[string]any{
		"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
		"resources": []map[string]any{{
			"resources": []string{"secrets"}, "providers": []any{provider, map[string]any{"identity": map[string]any{}}},
		}},
	})
	if err != nil {
		return err
	}
	return pki.Write(path, text)
}

func (s *Server) kubeconfigs() error {
	for name, path := range map[string]string{
		"client-admin": s.admin(), "client-controller": s.cred("controller.kubeconfig"),
		"client-scheduler": s.cred("scheduler.kubeconfig"),
	} {
		if err := WriteKubeconfig(path, s.settings.API(), s.tls("server-ca.crt"), s.tls(name)); err != nil {
			return err
		}
	}
	return WriteKubeconfig(Kubeconfig, s.settings.API(), s.tls("server-ca.crt"), s.tls("client-admin"))
}

// WriteKubeconfig writes how to reach the API as whom the pair PAIR.crt and PAIR.key is for.
func WriteKubeconfig(path, api, authority, pair string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["default"] = &clientcmdapi.Cluster{Server: "https://" + api, CertificateAuthority: authority}
	config.AuthInfos["default"] = &clientcmdapi.AuthInfo{ClientCertificate: pair + ".crt", ClientKey: pair + ".key"}
	config.Contexts["default"] = &clientcmdapi.Context{Cluster: "default", AuthInfo: "default"}
	config.CurrentContext = "default"
	text, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return pki.Write(path, text)
}

// nth is the address with that number in a prefix.
func nth(cidr string, number byte) string {
	address, _, err := net.ParseCIDR(cidr)
	if err != nil {
		return strings.TrimSpace(cidr)
	}
	last := len(address) - 1
	address[last] += number
	return address.String()
}
