// A snapshotter for containerd: converted images under their ordinary names in Kubernetes, Docker, nerdctl and ctr.
export { type SnapshotterServiceOptions, startSnapshotter } from "./start.ts";
