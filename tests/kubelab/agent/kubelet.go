package agent

import (
	"encoding/json"
	"strings"

	"hepto/kubelab/join"
	"hepto/kubelab/pki"
)

// kubelet writes its configuration and starts it.
func (a *Agent) kubelet(cluster join.Cluster) error {
	text, err := json.MarshalIndent(map[string]any{
		"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": a.path("client-ca.crt")},
		},
		"authorization":            map[string]any{"mode": "Webhook"},
		"cgroupDriver":             "cgroupfs",
		"clusterDNS":               cluster.DNS,
		"clusterDomain":            "cluster.local",
		"containerRuntimeEndpoint": "unix://" + socket(),
		"evictionHard":             map[string]string{"imagefs.available": "5%", "nodefs.available": "5%"},
		"failSwapOn":               false,
		"healthzBindAddress":       "127.0.0.1",
		"resolvConf":               a.settings.Text("resolv-conf"),
		"serializeImagePulls":      false,
		"tlsCertFile":              a.path("serving-kubelet.crt"),
		"tlsPrivateKeyFile":        a.path("serving-kubelet.key"),
	}, "", "  ")
	if err != nil {
		return err
	}
	config := a.path("etc/kubelet.json")
	if err := pki.Write(config, text); err != nil {
		return err
	}
	arguments := []string{
		"--config=" + config,
		"--hostname-override=" + a.settings.Text("node-name"),
		"--kubeconfig=" + a.path("kubelet.kubeconfig"),
		"--node-ip=" + a.settings.Text("node-ip"),
		"--node-labels=" + strings.Join(a.settings.List("node-label"), ","),
		"--register-with-taints=" + strings.Join(a.settings.List("node-taint"), ","),
	}
	return a.family.Own("kubelet", append(arguments, a.settings.Arguments("kubelet")...)...)
}

// proxy is kube-proxy's command line.
func (a *Agent) proxy(cluster join.Cluster) []string {
	arguments := []string{
		"--cluster-cidr=" + strings.Join(cluster.PodCIDRs, ","),
		"--conntrack-max-per-core=0",
		"--conntrack-tcp-timeout-close-wait=0s",
		"--conntrack-tcp-timeout-established=0s",
		"--healthz-bind-address=127.0.0.1",
		"--hostname-override=" + a.settings.Text("node-name"),
		"--kubeconfig=" + a.path("kubeproxy.kubeconfig"),
		"--proxy-mode=iptables",
	}
	return append(arguments, a.settings.Arguments("kube-proxy")...)
}
