package server

import (
	"context"
	"fmt"
	"log"
	"time"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// controller is as whom a node's own network part speaks to the API.
const controller = "system:k3s-controller"

// prepare waits for the API and lets the nodes' network parts see all nodes.
func prepare(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	start := time.Now()
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			break
		}
		if time.Since(start) > 5*time.Minute {
			return fmt.Errorf("the API is not ready: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	log.Printf("the API is ready after %.1f s", time.Since(start).Seconds())
	role := &rbac.ClusterRole{
		ObjectMeta: meta.ObjectMeta{Name: controller},
		Rules: []rbac.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"patch"}},
		},
	}
	_, err = client.RbacV1().ClusterRoles().Create(ctx, role, meta.CreateOptions{})
	if err != nil && !errors.IsAlreadyExists(err) {
		return err
	}
	binding := &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: controller},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: "User", Name: controller}},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: controller},
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, binding, meta.CreateOptions{})
	if err != nil && !errors.IsAlreadyExists(err) {
		return err
	}
	return nil
}
