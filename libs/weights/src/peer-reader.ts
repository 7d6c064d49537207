// Reads ranges from other nodes, with the native mover and under the same checksums as from the source. A peer serves what it
// has checked itself, but the way to it may change bytes too.
import { PlatformError } from "@pilotlight/errors";
import type { Mover } from "@pilotlight/streamer";
import { blocksOf } from "./native-reader.ts";
import type { Relay } from "./relay.ts";

/** Names the node that asks. */
export const NODE_HEADER = "x-pilotlight-node";

/** Where a node serves a file of weights. */
export const peerPath = (fingerprint: string, file: number | string): string =>
  `/weights/${fingerprint}/${file}`;

export type PeerReaderOptions = {
  mover: Mover;
  /** Of this node. */
  nodeId: string;
  /** What the nodes of a zone share; empty: nothing is asked for. */
  token: string;
  fingerprint: string;
};

export function createPeerReader({ mover, nodeId, token, fingerprint }: PeerReaderOptions): Relay["read"] {
  const headers = {
    [NODE_HEADER]: nodeId,
    ...(token === "" ? {} : { authorization: `Bearer ${token}` }),
  };
  return async (peer, { file, offset, length, into, checksums }, signal) => {
    const outcome = await mover.move(
      {
        url: new URL(peerPath(fingerprint, file), peer.url),
        headers,
        etag: null,
        offset,
        length,
        file: into.descriptor,
        position: into.base + offset,
        memory: into.memory ?? null,
        checksums: checksums === undefined ? null : blocksOf({ offset, length }, checksums),
      },
      signal,
    );
    if (outcome.kind === "otherAnswer") {
      throw new PlatformError("notFound", `${peer.nodeId} has not got the range: ${outcome.message}`);
    }
    into.filled(length);
  };
}
