// How long the mounting side waits for what, in milliseconds. The node agent has each of these as a setting, with the default that
// stands here.
export type ImagefsTimes = {
  /** A program's read that waited this long for the bucket fails with EIO. */
  readDeadlineMs: number;
  /** The processes are up within milliseconds; on a loaded machine those before them may take long to die. */
  startTimeoutMs: number;
  /** Mounting answers within milliseconds; an unmount may wait for the kernel. */
  callTimeoutMs: number;
  /** Processes that were told to end and are still there are told again. */
  stopTimeoutMs: number;
  /** A probe mounts and reads; what takes longer hangs. */
  probeTimeoutMs: number;
  /** Nodes that start the same image within this time know each other; up to twice as long, so that not all act at once. */
  peerListenMs: number;
  /** Another node is asked for the image object for so long, where it is still fetching it too. */
  peerObjectTimeoutMs: number;
};

export const DEFAULT_IMAGEFS_TIMES: ImagefsTimes = {
  readDeadlineMs: 30_000,
  startTimeoutMs: 30_000,
  callTimeoutMs: 30_000,
  stopTimeoutMs: 10_000,
  probeTimeoutMs: 20_000,
  peerListenMs: 100,
  peerObjectTimeoutMs: 1_500,
};
