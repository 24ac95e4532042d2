// Package setting reads the config file that hepto-node writes for k3s: a YAML mapping of k3s's own flags.
package setting

import (
	"fmt"
	"net"
	"os"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

// Role is k3s's subcommand.
type Role string

// The two halves of k3s.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Port is where the API and the bootstrap for agents are served.
const Port = 6443

// both are the flags of either role, onServer those of a server alone. A flag that is not listed is refused: a test
// that depends on it would otherwise pass without it.
var (
	both = words(`data-dir node-name node-ip node-external-ip node-label node-taint flannel-iface token-file
		resolv-conf prefer-bundled-bin kubelet-arg kube-proxy-arg`)
	onServer = words(`bind-address advertise-address tls-san flannel-backend flannel-ipv6-masq cluster-cidr service-cidr
		egress-selector-mode agent-token-file write-kubeconfig-mode kube-apiserver-arg kube-controller-manager-arg
		kube-scheduler-arg secrets-encryption disable`)
	onAgent = words(`server`)
)

// Settings are what the file says.
type Settings struct {
	Role   Role
	values map[string][]string
}

// Read reads and checks a config file; all mistakes are told at once.
func Read(role Role, path string) (*Settings, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	settings, err := parse(role, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return settings, nil
}

func parse(role Role, text []byte) (*Settings, error) {
	var raw map[string]any
	if err := yaml.UnmarshalStrict(text, &raw); err != nil {
		return nil, err
	}
	known := append(append([]string{}, both...), map[Role][]string{Server: onServer, Agent: onAgent}[role]...)
	settings := &Settings{Role: role, values: map[string][]string{}}
	var wrong []string
	for name, value := range raw {
		if !contains(known, name) {
			wrong = append(wrong, fmt.Sprintf("kubelab knows no flag %q of k3s %s", name, role))
			continue
		}
		settings.values[name] = flatten(value)
	}
	wrong = append(wrong, settings.missing()...)
	if len(wrong) > 0 {
		sort.Strings(wrong)
		return nil, fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return settings, nil
}

// missing names what kubelab cannot do without, and values that it does not offer.
func (s *Settings) missing() []string {
	needed := words("data-dir node-name node-ip flannel-iface token-file resolv-conf")
	offered := map[string]string{}
	switch s.Role {
	case Server:
		needed = append(needed, words("cluster-cidr service-cidr advertise-address agent-token-file")...)
		offered = map[string]string{"flannel-backend": "host-gw", "egress-selector-mode": "disabled"}
	case Agent:
		needed = append(needed, "server")
	}
	var wrong []string
	for _, name := range needed {
		if s.Text(name) == "" {
			wrong = append(wrong, name+" is not set")
		}
	}
	for name, value := range offered {
		if s.Text(name) != value {
			wrong = append(wrong, fmt.Sprintf("%s is %q; kubelab offers %q alone", name, s.Text(name), value))
		}
	}
	return wrong
}

// Text is a flag's only value; empty where it is not set.
func (s *Settings) Text(name string) string {
	if values := s.values[name]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// List is a flag's values, each possibly several with commas between.
func (s *Settings) List(name string) []string {
	var all []string
	for _, value := range s.values[name] {
		all = append(all, strings.Split(value, ",")...)
	}
	return all
}

// Arguments are a component's own flags (`kubelet-arg`), ready for its command line.
func (s *Settings) Arguments(component string) []string {
	var all []string
	for _, value := range s.values[component+"-arg"] {
		all = append(all, "--"+strings.TrimLeft(value, "-"))
	}
	return all
}

// On is whether a switch is on.
func (s *Settings) On(name string) bool { return s.Text(name) == "true" }

// Token is the secret in the file that a flag names, without white space around it.
func (s *Settings) Token(flag string) (string, error) {
	text, err := os.ReadFile(s.Text(flag))
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("%s: %s is empty", flag, s.Text(flag))
	}
	return token, nil
}

// API is where this node reaches the API: on a server where it listens, on an agent its own forwarder.
func (s *Settings) API() string {
	if s.Role == Agent {
		return "127.0.0.1:6444"
	}
	host := s.Text("bind-address")
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, fmt.Sprint(Port))
}

// flatten makes what YAML says into k3s's strings: a list is a flag given many times.
func flatten(value any) []string {
	items, ok := value.([]any)
	if !ok {
		return []string{fmt.Sprint(value)}
	}
	var all []string
	for _, item := range items {
		all = append(all, fmt.Sprint(item))
	}
	return all
}

func words(text string) []string { return strings.Fields(text) }

func contains(all []string, one string) bool {
	for _, item := range all {
		if item == one {
			return true
		}
	}
	return false
}
