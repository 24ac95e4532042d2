package setting

import (
	"strings"
	"testing"
)

const agent = `
data-dir: "/var/lib/rancher/k3s"
node-name: "venus"
node-ip: "10.44.0.2,fd00::2"
flannel-iface: "hepto0"
token-file: "/etc/rancher/k3s/token"
resolv-conf: "/etc/rancher/k3s/resolv.conf"
prefer-bundled-bin: true
kubelet-arg: ["node-status-update-frequency=20s", "--v=4"]
server: "https://mars:6443"
`

func TestFlagsAreReadAsK3sReadsThem(t *testing.T) {
	settings, err := parse(Agent, []byte(agent))
	if err != nil {
		t.Fatal(err)
	}
	if got := settings.List("node-ip"); len(got) != 2 || got[1] != "fd00::2" {
		t.Errorf("node-ip: %q", got)
	}
	if got := settings.Arguments("kubelet"); strings.Join(got, " ") != "--node-status-update-frequency=20s --v=4" {
		t.Errorf("kubelet-arg: %q", got)
	}
	if !settings.On("prefer-bundled-bin") || settings.API() != "127.0.0.1:6444" {
		t.Error("a switch or the forwarder")
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, err := parse(Server, []byte(agent+"with-node-id: true\nflannel-backend: vxlan\n"))
	if err == nil {
		t.Fatal("nothing was refused")
	}
	for _, mistake := range []string{
		`no flag "server"`, `no flag "with-node-id"`, `cluster-cidr is not set`, `"vxlan"; kubelab offers "host-gw"`,
	} {
		if !strings.Contains(err.Error(), mistake) {
			t.Errorf("%s is missing in: %v", mistake, err)
		}
	}
}
