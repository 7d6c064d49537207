#!/bin/sh
# Writes pilotlight_loader/gen from proto/: python/generate.sh (needs grpcio-tools 1.71 beside the Python that is called python3)
set -eu
cd "$(dirname "$0")/.."
python3 -m grpc_tools.protoc -I proto/pilotlight/api/v1 --python_out=python/pilotlight_loader/gen weight_streamer.proto
