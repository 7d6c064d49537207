// The other sides of the starts: what they need, what they are served, how they start.

import { findContainerd, type Snapshotter, startContainerd } from "./containerd.ts";
import type { ImageName, PreparedImage } from "./recipes.ts";

/** Until the program had done its first work, and until the pull had ended. */
export type PeerStart = { ms: number; pulledMs: number };

type Started = { programs: string; directory: string; registry: string; name: ImageName };

type Peer = {
  /** Which figure it stands for; of several the fastest counts. */
  kind: "containerd" | "estargz";
  /** Its programs. Throws where they cannot be had. */
  find(): Promise<{ directory: string; version: string }>;
  /** The node's disk. */
  diskBytes(image: PreparedImage): number;
  /** The directory with the image that the registry serves; made now, if it has to be. */
  layout(image: PreparedImage, programs: string, log: (line: string) => void): Promise<string>;
  /** From an empty node to the first work. */
  start(where: Started): Promise<PeerStart>;
};

export type PeerName = "containerd-overlayfs" | "containerd-erofs";

const containerd = (snapshotter: Snapshotter, copies: number): Peer => ({
  kind: "containerd",
  find: findContainerd,
  diskBytes: ({ layerBytes, unpackedBytes }) => Math.ceil(1e9 + layerBytes + copies * unpackedBytes),
  layout: async ({ directory }) => directory,
  async start({ programs, directory, registry, name }) {
    const daemon = await startContainerd(programs, directory);
    try {
      return await daemon.start(`${registry}/${name}:latest`, snapshotter);
    } finally {
      await daemon.stop();
    }
  },
});

export const PEERS: Record<PeerName, Peer> = {
  "containerd-overlayfs": containerd("overlayfs", 1.1),
  // It writes the files twice.
  "containerd-erofs": containerd("erofs", 2.1),
};
