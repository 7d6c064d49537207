// This node among the others of its zone: serves them its weights, and has theirs read before the bucket's.
import type { Bus } from "@pilotlight/bus";
import { joinPeers, type Peer, type Peers } from "@pilotlight/peers";
import { advertisedUrl, listen } from "@pilotlight/service";
import { createPeerReader, type OpenedReader, type Relay } from "@pilotlight/weights";
import { weightsHeldOn } from "./adapters/peers.ts";
import type { WeightCache, WeightCacheOptions } from "./domain/index.ts";
import { createPeerDoor } from "./handlers/peer-door.ts";

export type PeeringSettings = {
  nodeId: string;
  zone: string;
  peerHost: string;
  peerPort: number;
  peerUrl: string;
  peerToken: string;
  peerWaitMs: number;
  peerRequestTimeoutMs: number;
  peerRepeatIntervalMs: number;
};

export type Peering = {
  /** For the cache: whom its flights ask, and whom it tells. */
  options: Pick<WeightCacheOptions, "relayOf" | "onHeld">;
  /** Opens the door and speaks to the others. Before that nobody is asked. */
  join(cache: WeightCache): Promise<{ close(): Promise<void> }>;
};

const NOBODY: readonly Peer[] = [];

/** Undefined where it is turned off, or where the native mover is missing. */
export function createPeering(
  bus: Bus,
  mover: OpenedReader["mover"],
  settings: PeeringSettings,
): Peering | undefined {
  const { nodeId, zone, peerHost, peerPort, peerUrl, peerToken: token, peerWaitMs: waitMs } = settings;
  const { peerRequestTimeoutMs: requestTimeoutMs } = settings;
  const { peerRepeatIntervalMs: repeatIntervalMs } = settings;
  if (peerHost === "" || mover === undefined) return undefined;
  let peers: Peers | undefined;
  return {
    options: {
      relayOf: (fingerprint): Relay => ({
        nodeId,
        peers: () => peers?.peers(fingerprint) ?? NOBODY,
        read: createPeerReader({ mover, nodeId, token, fingerprint }),
      }),
      onHeld: (fingerprint, held) => peers?.hold(fingerprint, held),
    },
    async join(cache) {
      const door = createPeerDoor(cache, { token, waitMs, requestTimeoutMs });
      const url = await listen(door, { name: "peers", host: peerHost, port: peerPort });
      peers = joinPeers(weightsHeldOn(bus), {
        nodeId,
        zone,
        url: peerUrl === "" ? advertisedUrl(url) : peerUrl,
        repeatIntervalMs,
      });
      return {
        async close() {
          await peers?.close();
          await door.close();
        },
      };
    },
  };
}
