// Package component runs one upstream component of Kubernetes in this process.
package component

import (
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of the client
	_ "k8s.io/component-base/metrics/prometheus/version"  // metrics of the version
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controller "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"hepto/kubelab/join"
)

// APIServer is the part that serves the API, and the desk for nodes that join beside it.
const APIServer = "kube-apiserver"

// commands are the parts that are upstream's commands as they are.
var commands = map[string]func() *cobra.Command{
	"kube-controller-manager": controller.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 kubelet.NewKubeletCommand,
	"kube-proxy":              proxy.NewProxyCommand,
}

// Known is whether a word is one of the parts.
func Known(name string) bool { return name == APIServer || commands[name] != nil }

// Run runs a part until its end; the arguments are without its name.
func Run(name string, arguments []string) int {
	if name == APIServer {
		if err := serve(arguments); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			return 1
		}
		return 0
	}
	command := commands[name]()
	command.SetArgs(arguments)
	return cli.Run(command)
}

// Kubectl runs kubectl; the arguments are without its name.
func Kubectl(arguments []string) int {
	// kubectl looks at the program's own words to find plug-ins.
	os.Args = append([]string{"kubectl"}, arguments...)
	return cli.Run(kubectl.NewDefaultKubectlCommand())
}

// serve runs the API server with the desk of the first argument's folder in front of it: before authentication, which
// who has no certificate yet could not pass.
func serve(arguments []string) error {
	folder, flags := arguments[0], pflag.NewFlagSet(APIServer, pflag.ContinueOnError)
	settings := options.NewServerRunOptions()
	for _, set := range settings.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	if err := settings.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	ctx := genericapiserver.SetupSignalContext()
	completed, err := settings.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) != 0 {
		return utilerrors.NewAggregate(errs)
	}
	config, err := apiserver.NewConfig(completed)
	if err != nil {
		return err
	}
	outermost := config.Aggregator.GenericConfig
	chain, desk := outermost.BuildHandlerChainFunc, join.Open(folder)
	outermost.BuildHandlerChainFunc = func(handler http.Handler, config *genericapiserver.Config) http.Handler {
		return desk.Before(chain(handler, config))
	}
	ready, err := config.Complete()
	if err != nil {
		return err
	}
	chained, err := apiserver.CreateServerChain(ready)
	if err != nil {
		return err
	}
	prepared, err := chained.PrepareRun()
	if err != nil {
		return err
	}
	return prepared.Run(ctx)
}
