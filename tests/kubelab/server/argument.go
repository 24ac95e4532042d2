package server

import (
	"fmt"
	"os"

	"hepto/kubelab/setting"
)

// apiserver is the API server's command line.
func (s *Server) apiserver(endpoint string) []string {
	bind := s.settings.Text("bind-address")
	if bind == "" {
		// Of both families.
		bind = "::"
	}
	arguments := []string{
		"--advertise-address=" + s.settings.Text("advertise-address"),
		"--allow-privileged=true",
		"--anonymous-auth=false",
		"--authorization-mode=Node,RBAC",
		"--bind-address=" + bind,
		"--client-ca-file=" + s.tls("client-ca.crt"),
		"--enable-admission-plugins=NodeRestriction",
		"--etcd-servers=" + endpoint,
		"--kubelet-certificate-authority=" + s.tls("server-ca.crt"),
		"--kubelet-client-certificate=" + s.tls("client-kube-apiserver.crt"),
		"--kubelet-client-key=" + s.tls("client-kube-apiserver.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--profiling=false",
		"--proxy-client-cert-file=" + s.tls("client-auth-proxy.crt"),
		"--proxy-client-key-file=" + s.tls("client-auth-proxy.key"),
		"--requestheader-allowed-names=system:auth-proxy",
		"--requestheader-client-ca-file=" + s.tls("request-header-ca.crt"),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		fmt.Sprintf("--secure-port=%d", setting.Port),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + s.tls("service.pub"),
		"--service-account-signing-key-file=" + s.tls("service.key"),
		"--service-cluster-ip-range=" + s.settings.Text("service-cidr"),
		"--tls-cert-file=" + s.tls("serving-kube-apiserver.crt"),
		"--tls-private-key-file=" + s.tls("serving-kube-apiserver.key"),
	}
	if path := s.cred("encryption-config.json"); exists(path) {
		arguments = append(arguments, "--encryption-provider-config="+path)
	}
	return append(arguments, s.settings.Arguments("kube-apiserver")...)
}

func (s *Server) controllers() []string {
	kubeconfig := s.cred("controller.kubeconfig")
	arguments := []string{
		"--allocate-node-cidrs=true",
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--cluster-cidr=" + s.settings.Text("cluster-cidr"),
		"--kubeconfig=" + kubeconfig,
		"--leader-elect=false",
		"--profiling=false",
		"--root-ca-file=" + s.tls("server-ca.crt"),
		"--service-account-private-key-file=" + s.tls("service.key"),
		"--service-cluster-ip-range=" + s.settings.Text("service-cidr"),
		"--use-service-account-credentials=true",
	}
	return append(arguments, s.settings.Arguments("kube-controller-manager")...)
}

func (s *Server) scheduler() []string {
	kubeconfig := s.cred("scheduler.kubeconfig")
	arguments := []string{
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1",
		"--kubeconfig=" + kubeconfig,
		"--leader-elect=false",
		"--profiling=false",
	}
	return append(arguments, s.settings.Arguments("kube-scheduler")...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
