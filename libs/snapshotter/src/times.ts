// How long the snapshotter waits for what, in milliseconds. The node agent has each of these as a setting, with the
// default that stands here.
export type SnapshotterTimes = {
  /** The longest look into the bucket; afterwards an image counts as not converted. */
  lookupTimeoutMs: number;
  /** An image that was not found is looked for again after this time: all layers of one pull are answered alike. */
  missingKeepMs: number;
  /** The longest mount of a converted image, afterwards its layers are fetched. */
  mountTimeoutMs: number;
  /** How long an image stays mounted whose last layer is not asked for: its pull broke off. */
  pullTimeoutMs: number;
  /** What a container reads before this time is its start. */
  startLengthMs: number;
  /** How often what no snapshot needs is looked for and removed. */
  housekeepingIntervalMs: number;
  /** How often the converter hears of images in use; well within any grace period of garbage collection. */
  keepIntervalMs: number;
  /** An image is asked for at most this often. A converter that is away is asked by the next pull after that. */
  askIntervalMs: number;
  /** How long calls of containerd may go on when the snapshotter ends. */
  closeTimeoutMs: number;
};

export const DEFAULT_SNAPSHOTTER_TIMES: SnapshotterTimes = {
  lookupTimeoutMs: 5_000,
  missingKeepMs: 5_000,
  mountTimeoutMs: 60_000,
  pullTimeoutMs: 10 * 60_000,
  startLengthMs: 30_000,
  housekeepingIntervalMs: 60_000,
  keepIntervalMs: 3_600_000,
  askIntervalMs: 10 * 60_000,
  closeTimeoutMs: 2_000,
};
