// containerd's own tests of a snapshotter, run against ours as containerd would speak to it: over its socket.
// SNAPSHOTTER_COMMAND starts one; it is given a directory and a socket.
package suite

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	_ "github.com/containerd/containerd/v2/pkg/testutil" // its flag -test.root
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const startTimeout = 60 * time.Second

func TestSnapshotter(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", open) // its name tells the suite what overlayfs cannot do
}

func open(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(root, "s")
	command := strings.Fields(os.Getenv("SNAPSHOTTER_COMMAND"))
	served := exec.Command(command[0], append(command[1:], "--directory", root, "--socket", socket)...)
	served.Stderr = os.Stderr
	if err := served.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() error {
		_ = served.Process.Signal(syscall.SIGTERM)
		return served.Wait()
	}
	for until := time.Now().Add(startTimeout); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if probe, err := net.Dial("unix", socket); err == nil {
			probe.Close()
			break
		}
	}
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		_ = stop()
		return nil, nil, err
	}
	opened := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "pilotlight")
	return opened, func() error {
		connection.Close()
		return stop()
	}, nil
}
