// Kubelab is a cluster in k3s's shape: it takes k3s's command line, config file, tokens, notify socket and signals, and
// runs upstream's own components. It is for tests where k3s itself is not to be had, and it is not k3s: it has no
// add-ons, no network policies, no load balancer, no cloud controller.
//
//	kubelab server|agent --config FILE
//	kubelab kubectl …
//	kubelab --version
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/component-base/version"

	"hepto/kubelab/agent"
	"hepto/kubelab/component"
	"hepto/kubelab/process"
	"hepto/kubelab/server"
	"hepto/kubelab/setting"
)

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	words := os.Args[1:]
	if len(words) == 0 {
		words = []string{"--help"}
	}
	switch word := words[0]; {
	case word == string(setting.Server) || word == string(setting.Agent):
		if len(words) != 3 || words[1] != "--config" {
			fail(fmt.Errorf("kubelab %s takes --config FILE, and got %q", word, words[1:]))
		}
		if err := run(setting.Role(word), words[2]); err != nil {
			fail(err)
		}
	case word == "kubectl":
		if os.Getenv("KUBECONFIG") == "" {
			_ = os.Setenv("KUBECONFIG", server.Kubeconfig) // fails for a malformed name alone
		}
		os.Exit(component.Kubectl(words[1:]))
	case component.Known(word):
		os.Exit(component.Run(word, words[1:]))
	case word == "--version" || word == "-v":
		fmt.Printf("k3s version %s (kubelab)\ngo version %s\n", version.Get().GitVersion, runtime.Version())
	default:
		fail(fmt.Errorf("kubelab server|agent --config FILE, kubelab kubectl …, kubelab --version"))
	}
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "kubelab: %v\n", err)
	os.Exit(1)
}

// run is a server or an agent until SIGTERM, which ends it and leaves pods alone, or until a part of it dies.
func run(role setting.Role, config string) error {
	settings, err := setting.Read(role, config)
	if err != nil {
		return err
	}
	// The parts must not notify in our name.
	notify := os.Getenv("NOTIFY_SOCKET")
	if err := os.Unsetenv("NOTIFY_SOCKET"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	family := process.New()
	defer family.Stop()
	started := make(chan error, 1)
	go func() { started <- start(ctx, settings, family, notify) }()
	for {
		select {
		case err := <-started:
			if err != nil && ctx.Err() == nil {
				return err
			}
			started = nil
		case who := <-family.Died:
			if ctx.Err() == nil {
				return fmt.Errorf("%s", who)
			}
		case <-ctx.Done():
			log.Print("asked to end")
			return nil
		}
	}
}

func start(ctx context.Context, settings *setting.Settings, family *process.Family, notify string) error {
	if settings.Role == setting.Server {
		if err := server.New(settings, family).Start(ctx); err != nil {
			return err
		}
		// As k3s: a server is ready when its API is, whatever its kubelet does.
		if err := ready(notify); err != nil {
			return err
		}
		return agent.New(settings, family).Start(ctx)
	}
	if err := agent.New(settings, family).Start(ctx); err != nil {
		return err
	}
	return ready(notify)
}

// ready tells the supervisor.
func ready(notify string) error {
	log.Print("ready")
	if notify == "" {
		return nil
	}
	if err := os.Setenv("NOTIFY_SOCKET", notify); err != nil {
		return err
	}
	_, err := daemon.SdNotify(true, daemon.SdNotifyReady)
	return err
}
