package server

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	kine "github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// datastore serves etcd's protocol from SQLite in db/state.db, as k3s does, on a socket of the server's folder; it
// gives the address for the API server.
func datastore(ctx context.Context, folder string) (string, error) {
	database := filepath.Join(folder, "db", "state.db")
	if err := os.MkdirAll(filepath.Dir(database), 0o700); err != nil {
		return "", err
	}
	_, backend, err := sqlite.New(ctx, &drivers.Config{
		DataSourceName:        database + "?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate",
		CompactInterval:       5 * time.Minute,
		CompactIntervalJitter: 5,
		CompactTimeout:        5 * time.Second,
		CompactMinRetain:      1000,
		CompactBatchSize:      1000,
		PollBatchSize:         500,
	})
	if err != nil {
		return "", fmt.Errorf("open %s: %w", database, err)
	}
	if err := backend.Start(ctx); err != nil {
		return "", fmt.Errorf("start the datastore: %w", err)
	}
	socket := filepath.Join(folder, "kine.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return "", err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return "", err
	}
	// The client asks for signs of life more often than gRPC allows by default.
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}))
	kine.New(backend, "unix", 5*time.Second, "3.5.13").Register(server)
	go func() { log.Printf("the datastore ended: %v", server.Serve(listener)) }()
	return "unix://" + socket, nil
}
