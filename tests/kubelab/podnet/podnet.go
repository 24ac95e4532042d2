// Package podnet is flannel with its host-gw backend, as k3s embeds it: routes to the other nodes' pods, masquerading,
// and the configuration by which containerd gives pods their addresses.
package podnet

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // registers host-gw
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"hepto/kubelab/join"
	"hepto/kubelab/pki"
)

const (
	annotations = "flannel.alpha.coreos.com"
	// Seconds between two looks at the rules, as in k3s.
	masqueradeResync, forwardResync = 60, 50
)

// Network is the pod network as one node sees it.
type Network struct {
	Node       string
	Link       string
	Addresses  []string
	Cluster    join.Cluster
	Kubeconfig string
	// Folder is where configurations are written.
	Folder string
}

// Start returns when pods can be given addresses; ended hears of a failure after that.
func (n *Network) Start(ctx context.Context, ended func(error)) error {
	pods, err := n.allocation(ctx)
	if err != nil {
		return err
	}
	external, err := n.external()
	if err != nil {
		return err
	}
	// The CNI configuration makes the kubelet say Ready; flannel's routes come a moment later, and are kept.
	network, err := n.register(ctx, external)
	if err != nil {
		return err
	}
	if err := n.writeCNI(pods, network.MTU()); err != nil {
		return err
	}
	go func() {
		network.Run(ctx)
		ended(ctx.Err())
	}()
	return nil
}

// allocation waits until the controller gave this node its pod prefixes.
func (n *Network) allocation(ctx context.Context) ([]string, error) {
	config, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	for {
		node, err := client.CoreV1().Nodes().Get(ctx, n.Node, meta.GetOptions{})
		if err == nil && len(node.Spec.PodCIDRs) > 0 {
			return node.Spec.PodCIDRs, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// external is the link to the other nodes, by which routes go.
func (n *Network) external() (*backend.ExternalInterface, error) {
	link, err := net.InterfaceByName(n.Link)
	if err != nil {
		return nil, fmt.Errorf("flannel-iface %s: %w", n.Link, err)
	}
	external := &backend.ExternalInterface{Iface: link}
	for _, text := range n.Addresses {
		address := net.ParseIP(text)
		switch {
		case address == nil:
			return nil, fmt.Errorf("node-ip: %q is no address", text)
		case address.To4() != nil:
			external.IfaceAddr, external.ExtAddr = address, address
		default:
			external.IfaceV6Addr, external.ExtV6Addr = address, address
		}
	}
	return external, nil
}

// register takes the node's lease and sets the rules up.
func (n *Network) register(ctx context.Context, external *backend.ExternalInterface) (backend.Network, error) {
	path, err := n.writeFlannel()
	if err != nil {
		return nil, err
	}
	// flannel learns the node's name from nowhere else.
	if err := os.Setenv("NODE_NAME", n.Node); err != nil {
		return nil, err
	}
	leases, err := kube.NewSubnetManager(ctx, "", n.Kubeconfig, annotations, path, false)
	if err != nil {
		return nil, err
	}
	config, err := leases.GetNetworkConfig(ctx)
	if err != nil {
		return nil, err
	}
	gateway, err := backend.NewManager(ctx, leases, external).GetBackend(config.BackendType)
	if err != nil {
		return nil, err
	}
	network, err := gateway.RegisterNetwork(ctx, &sync.WaitGroup{}, config)
	if err != nil {
		return nil, err
	}
	return network, n.rules(ctx, config, network)
}

// rules are masquerading and forwarding, both kept.
func (n *Network) rules(ctx context.Context, config *subnet.Config, network backend.Network) error {
	manager := &iptables.IPTablesManager{}
	if err := manager.Init(ctx); err != nil {
		return err
	}
	masqueraded := config.IPv6Network
	if !n.Cluster.IPv6Masq {
		masqueraded = ip.IP6Net{}
	}
	// The rules of an earlier start of this node are the same: prefixes are allocated once.
	lease := network.Lease()
	err := manager.SetupAndEnsureMasqRules(ctx, config.Network, lease.Subnet, config.Network,
		masqueraded, lease.IPv6Subnet, masqueraded, lease, masqueradeResync)
	if err != nil {
		return err
	}
	manager.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, forwardResync)
	return nil
}

// writeFlannel writes flannel's own configuration, and gives its path.
func (n *Network) writeFlannel() (string, error) {
	config := map[string]any{"EnableIPv4": false, "Backend": map[string]string{"Type": "host-gw"}}
	for _, cidr := range n.Cluster.PodCIDRs {
		address, _, err := net.ParseCIDR(cidr)
		switch {
		case err != nil:
			return "", err
		case address.To4() != nil:
			config["EnableIPv4"], config["Network"] = true, cidr
		default:
			config["EnableIPv6"], config["IPv6Network"] = true, cidr
		}
	}
	path := filepath.Join(n.Folder, "flannel", "net-conf.json")
	text, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	return path, pki.Write(path, text)
}

// writeCNI writes what containerd does for a pod: a bridge with the tunnel's MTU, both families, published ports.
func (n *Network) writeCNI(pods []string, mtu int) error {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, cidr := range pods {
		ranges = append(ranges, []map[string]string{{"subnet": cidr}})
	}
	for _, cidr := range n.Cluster.PodCIDRs {
		routes = append(routes, map[string]string{"dst": cidr})
	}
	bridge := map[string]any{
		"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "forceAddress": false,
		"ipMasq": false, "mtu": mtu, "ipam": map[string]any{"type": "host-local", "ranges": ranges, "routes": routes},
	}
	portmap := map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}}
	text, err := json.MarshalIndent(map[string]any{
		"name": "cbr0", "cniVersion": "1.0.0", "plugins": []any{bridge, portmap},
	}, "", "  ")
	if err != nil {
		return err
	}
	log.Printf("pods get %v with an MTU of %d", pods, mtu)
	return pki.Write(filepath.Join(n.Folder, "cni", "net.d", "10-flannel.conflist"), text)
}
