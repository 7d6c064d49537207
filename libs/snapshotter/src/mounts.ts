// What containerd is told to mount for a snapshot. Pure: paths in, mounts out, the same that containerd's own overlayfs
// snapshotter gives.
import type { MessageInitShape } from "@pilotlight/contracts";
import type { MountSchema } from "@pilotlight/contracts/containerd";

export type ContainerdMount = MessageInitShape<typeof MountSchema>;

export type SnapshotPaths = {
  /** The snapshot's own files, and overlayfs' scratch directory beside them. */
  upper: string;
  work: string;
  /** What it stands on, the nearest first. */
  lowers: readonly string[];
};

/**
 * The mounts of an active snapshot or a view. `options`: what this kernel's overlayfs needs besides (`index=off`). Many lower
 * directories make long options; containerd shortens them where they begin alike, so all of ours lie in one directory.
 */
export function mountsOf(
  kind: "active" | "view",
  { upper, work, lowers }: SnapshotPaths,
  options: readonly string[],
): ContainerdMount[] {
  const [only, ...more] = lowers;
  if (only === undefined) return [bind(upper, kind === "active" ? "rw" : "ro")];
  if (kind === "view" && more.length === 0) return [bind(only, "ro")];
  return [
    {
      type: "overlay",
      source: "overlay",
      options: [
        ...options,
        ...(kind === "active" ? [`workdir=${work}`, `upperdir=${upper}`] : []),
        `lowerdir=${lowers.join(":")}`,
      ],
    },
  ];
}

const bind = (source: string, mode: "rw" | "ro"): ContainerdMount => ({
  type: "bind",
  source,
  options: [mode, "rbind"],
});
