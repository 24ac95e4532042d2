package agent

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"

	"hepto/kubelab/pki"
)

const (
	// state is containerd's, lost with the node as its pods are.
	state = "/run/k3s/containerd"
	// pause is the image of every pod's first process, by k3s's name.
	pause = "rancher/mirrored-pause:3.6"
	// plugins is where Debian puts CNI's.
	plugins = "/usr/lib/cni"
)

func socket() string { return filepath.Join(state, "containerd.sock") }

// configuration is containerd's; version 2 is read by all of Debian's.
var configuration = template.Must(template.New("").Parse(`# Written at each start.
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
  sandbox_image = "{{.Pause}}"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = {{.Spare}}
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{{.Plugins}}"
  conf_dir = "{{.Networks}}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
`))

// containerd starts it and gives it the images of the airgap folder.
func (a *Agent) containerd(ctx context.Context) error {
	var text bytes.Buffer
	err := configuration.Execute(&text, map[string]any{
		"Pause": pause, "Spare": a.sparesScores(), "Plugins": plugins, "Networks": a.path("etc/cni/net.d"),
	})
	if err != nil {
		return err
	}
	config := a.path("etc/containerd/config.toml")
	if err := pki.Write(config, text.Bytes()); err != nil {
		return err
	}
	root := a.path("containerd")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	output, err := os.OpenFile(filepath.Join(root, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	command := exec.Command("containerd", "--config", config, "--address", socket(), "--state", state, "--root", root)
	command.Stdout, command.Stderr = output, output
	if err := a.family.Start("containerd", command); err != nil {
		return fmt.Errorf("%w (Debian's package containerd)", err)
	}
	if err := await(ctx); err != nil {
		return err
	}
	return a.images()
}

// sparesScores is whether hepto-node told containerd 2, which k3s has, to leave the OOM killer's ranks alone; Debian's
// older one knows the same setting by another name.
func (a *Agent) sparesScores() bool {
	files, err := filepath.Glob(a.path("etc/containerd/config-v3.toml.d/*.toml"))
	if err != nil {
		return false
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte("restrict_oom_score_adj = true")) {
			return true
		}
	}
	return false
}

// await returns when containerd answers.
func await(ctx context.Context) error {
	start := time.Now()
	for {
		output, err := ctr("version").CombinedOutput()
		if err == nil {
			log.Printf("containerd answers after %.1f s", time.Since(start).Seconds())
			return nil
		}
		if time.Since(start) > time.Minute {
			return fmt.Errorf("containerd does not answer: %s", bytes.TrimSpace(output))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// images imports every archive of agent/images, as k3s does.
func (a *Agent) images() error {
	archives, err := filepath.Glob(a.path("images/*.tar"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		output, err := ctr("--namespace", "k8s.io", "images", "import", archive).CombinedOutput()
		if err != nil {
			return fmt.Errorf("import %s: %s", archive, bytes.TrimSpace(output))
		}
	}
	return nil
}

func ctr(arguments ...string) *exec.Cmd {
	return exec.Command("ctr", append([]string{"--address", socket()}, arguments...)...)
}
