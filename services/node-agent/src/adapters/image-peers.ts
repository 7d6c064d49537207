// What the nodes of a zone say about their images, over the bus.
import { type Bus, publishSample, watchSamples } from "@pilotlight/bus";
import { EVENTS, ImageHolding } from "@pilotlight/contracts";
import { toPlatformError } from "@pilotlight/errors";
import type { Imagefs } from "@pilotlight/imagefs";
import { type Held, joinPeers, type PeersPorts } from "@pilotlight/peers";
import { advertisedUrl, type ServiceConfig, type ServiceContext } from "@pilotlight/service";
import type { config as schema } from "../config.ts";

type ShareSettings = ServiceConfig<(typeof schema)["fields"]>;

const WIRE: Record<Held, ImageHolding> = {
  loading: ImageHolding.LOADING,
  complete: ImageHolding.COMPLETE,
  gone: ImageHolding.GONE,
};
const HELD = new Map(Object.entries(WIRE).map(([held, wire]) => [wire, held as Held]));
const DIGEST = /^sha256:([0-9a-f]{64})$/;

/** The key is the hex part of the manifest digest. */
const imagesHeldOn = (bus: Bus): PeersPorts => ({
  say: ({ key, held, ...node }) =>
    publishSample(bus, EVENTS.imageHeld, { ...node, manifestDigest: `sha256:${key}`, holding: WIRE[held] }),
  listen: (onHeard) =>
    watchSamples(bus, EVENTS.imageHeld, {}, ({ nodeId, zone, url, manifestDigest, holding }) => {
      const key = DIGEST.exec(manifestDigest)?.[1];
      if (key !== undefined) onHeard({ nodeId, zone, url, key, held: HELD.get(holding) ?? "loading" });
    }),
});

/** Shares this node's images with the others of its zone, unless that is turned off. A node that cannot still starts alone. */
export async function shareImages(
  imagefs: Imagefs,
  bus: Bus,
  { config, log }: Pick<ServiceContext<ShareSettings>, "config" | "log">,
): Promise<void> {
  const { nodeId, zone, peerHost: host, peerPort: port, peerUrl, peerToken: token } = config;
  if (host === "") return;
  const urlOf = (opened: number) =>
    advertisedUrl(`http://${host.includes(":") ? `[${host}]` : host}:${opened}`);
  try {
    await imagefs.share({
      nodeId,
      host,
      port,
      token,
      uploadBytesPerSecond: config.peerUploadBytesPerSecond,
      join: (opened, onChange) =>
        joinPeers(imagesHeldOn(bus), {
          nodeId,
          zone,
          url: peerUrl === "" ? urlOf(opened) : peerUrl,
          repeatIntervalMs: config.peerRepeatIntervalMs,
          onChange,
        }),
    });
  } catch (error) {
    log.warn("images are not shared with other nodes", { error: toPlatformError(error) });
  }
}
