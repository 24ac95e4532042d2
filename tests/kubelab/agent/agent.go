// Package agent is what makes a machine a node: containerd, kubelet, kube-proxy and the pod network.
package agent

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"path/filepath"
	"strings"
	"time"

	"hepto/kubelab/join"
	"hepto/kubelab/podnet"
	"hepto/kubelab/process"
	"hepto/kubelab/server"
	"hepto/kubelab/setting"
)

// passwordFile holds the node's own password, for as long as the node keeps its name.
const passwordFile = "/etc/rancher/node/password"

// Agent is the node's part of k3s.
type Agent struct {
	settings *setting.Settings
	family   *process.Family
	folder   string
}

// New is the node that the settings describe; nothing is started yet.
func New(settings *setting.Settings, family *process.Family) *Agent {
	return &Agent{settings, family, filepath.Join(settings.Text("data-dir"), "agent")}
}

// Start starts everything; it returns when pods can be given addresses.
func (a *Agent) Start(ctx context.Context) error {
	if a.settings.Role == setting.Agent {
		if err := a.forward(); err != nil {
			return err
		}
	}
	contained := make(chan error, 1)
	go func() { contained <- a.containerd(ctx) }()
	cluster, err := a.join(ctx)
	if err != nil {
		return err
	}
	if err := <-contained; err != nil {
		return err
	}
	if err := a.kubelet(cluster); err != nil {
		return err
	}
	if err := a.family.Own("kube-proxy", a.proxy(cluster)...); err != nil {
		return err
	}
	network := podnet.Network{
		Node: a.settings.Text("node-name"), Link: a.settings.Text("flannel-iface"), Cluster: cluster,
		Addresses: a.settings.List("node-ip"), Kubeconfig: a.path("k3scontroller.kubeconfig"), Folder: a.path("etc"),
	}
	return network.Start(ctx, func(why error) { a.family.Died <- fmt.Sprintf("the pod network ended: %v", why) })
}

func (a *Agent) path(name string) string { return filepath.Join(a.folder, name) }

// join comes into the cluster, trying until the server answers and admits.
func (a *Agent) join(ctx context.Context) (join.Cluster, error) {
	token, err := a.settings.Token("token-file")
	if err != nil {
		return join.Cluster{}, err
	}
	visitor := &join.Visitor{
		Server: a.settings.API(), Token: token, Node: a.settings.Text("node-name"),
		Addresses: a.settings.Text("node-ip"), Folder: a.folder, Password: passwordFile,
	}
	if a.settings.Role == setting.Agent {
		visitor.Server = a.master()
	}
	told := ""
	for {
		cluster, err := visitor.Join()
		if err == nil {
			return cluster, a.kubeconfigs()
		}
		if why := err.Error(); why != told {
			log.Printf("cannot join %s: %s", visitor.Server, why)
			told = why
		}
		select {
		case <-ctx.Done():
			return cluster, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (a *Agent) kubeconfigs() error {
	for file, pair := range map[string]string{
		"kubelet": "client-kubelet", "kubeproxy": "client-kube-proxy", "k3scontroller": "client-k3s-controller",
	} {
		path := a.path(file + ".kubeconfig")
		if err := server.WriteKubeconfig(path, a.settings.API(), a.path("server-ca.crt"), a.path(pair)); err != nil {
			return err
		}
	}
	return nil
}

// master is host and port of the server.
func (a *Agent) master() string { return strings.TrimPrefix(a.settings.Text("server"), "https://") }

// forward leads the node's own way to the API to the server, by its name: it may move.
func (a *Agent) forward() error {
	listener, err := net.Listen("tcp", a.settings.API())
	if err != nil {
		return err
	}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				log.Printf("the way to the API ended: %v", err)
				return
			}
			go carry(near, a.master())
		}
	}()
	return nil
}

// carry copies both ways until either side ends.
func carry(near net.Conn, server string) {
	defer near.Close()
	far, err := net.DialTimeout("tcp", server, 5*time.Second)
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			// Errors end the connection as its end does.
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done
}
