// The other sides of the starts: what they need, what they are served, how they start.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { findContainerd, type Snapshotter, startContainerd } from "./containerd.ts";
import type { ImageName, PreparedImage } from "./recipes.ts";
import { estargzLayout, findStargz } from "./stargz.ts";

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
  layout(name: ImageName, image: PreparedImage, log: (line: string) => void): Promise<string>;
  /** From an empty node to the first work. */
  start(where: Started): Promise<PeerStart>;
};

export type PeerName = "containerd-overlayfs" | "containerd-erofs" | "stargz";

const containerd = (snapshotter: Snapshotter, copies: number): Peer => ({
  kind: "containerd",
  find: findContainerd,
  diskBytes: ({ layerBytes, unpackedBytes }) => Math.ceil(1e9 + layerBytes + copies * unpackedBytes),
  layout: async (_name, { directory }) => directory,
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
  stargz: {
    kind: "estargz",
    async find() {
      const { directory, version } = await findContainerd();
      await findStargz();
      return { directory, version: `stargz-snapshotter v0.19.1, ${version}` };
    },
    // The daemon reads on in the background.
    diskBytes: ({ layerBytes }) => Math.ceil(1e9 + 2.5 * layerBytes),
    layout: estargzLayout,
    async start({ programs, directory, registry, name }) {
      const socket = join(directory, "stargz.sock");
      const state = join(directory, "stargz");
      await mkdir(state, { recursive: true });
      const program = join(await findStargz(), "stargz-peer");
      const log = join(directory, "stargz.log");
      // Both in one mount namespace: what the snapshotter mounts, containerd must see.
      const beside = `${program} daemon ${socket} ${state} ${registry} > ${log} 2>&1`;
      const daemon = await startContainerd(programs, directory, { beside, socket });
      try {
        return await daemon.start(`${registry}/${name}:latest`, "stargz");
      } finally {
        await daemon.stop();
      }
    },
  },
};
