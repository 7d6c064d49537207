// The snapshotter behind a unix socket, with the registry of the benchmark spoken to by plain HTTP.
package main

import (
	"context"
	"net"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/metadata/memory"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"google.golang.org/grpc"
)

func serve(socket, state, registry string) error {
	ctx := context.Background()
	mirror := resolver.MirrorConfig{Host: registry, Insecure: true}
	hosts := resolver.RegistryHostsFromConfig(resolver.Config{
		Host: map[string]resolver.HostConfig{registry: {Mirrors: []resolver.MirrorConfig{mirror}}},
	})
	snapshotter, err := service.NewStargzSnapshotterService(ctx, state, &service.Config{},
		service.WithCustomRegistryHosts(hosts),
		service.WithFilesystemOptions(fs.WithMetadataStore(memory.NewReader)))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshots.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return server.Serve(listener)
}
