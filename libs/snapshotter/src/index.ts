// A snapshotter for containerd: converted images under their ordinary names in Kubernetes, Docker, nerdctl and ctr.
export { countSnapshots } from "./snapshotter.ts";
export { type SnapshotterServiceOptions, startSnapshotter } from "./start.ts";
export { DEFAULT_SNAPSHOTTER_TIMES, type SnapshotterTimes } from "./times.ts";
