// Serves ranges of this node's weights to the other nodes of its zone: what is there and checked, or will be soon.
import { timingSafeEqual } from "node:crypto";
import { createReadStream } from "node:fs";
import { PlatformError } from "@pilotlight/errors";
import { createHttpDoor } from "@pilotlight/service";
import { counter } from "@pilotlight/telemetry";
import { peerPath } from "@pilotlight/weights";
import type { WeightCache } from "../domain/index.ts";

/** A GET has none. */
const BODY_BYTES_MAX = 1024;
const READ_BYTES = 1024 * 1024;

const served = counter({
  name: "pilotlight_weights_served_bytes_total",
  help: "Bytes of weights that other nodes read from this one.",
});

export type PeerDoorOptions = {
  /** What the nodes of a zone share; empty: nothing is asked for. */
  token: string;
  /** How long a node may wait for a range that is on its way. */
  waitMs: number;
  /** A request must have arrived whole within this. */
  requestTimeoutMs: number;
};

/** A fastify instance; the caller listens. */
export function createPeerDoor(cache: WeightCache, { token, waitMs, requestTimeoutMs }: PeerDoorOptions) {
  const door = createHttpDoor({ bodyBytesMax: BODY_BYTES_MAX, requestTimeoutMs });
  door.get<{ Params: { fingerprint: string; file: string } }>(
    peerPath(":fingerprint", ":file"),
    async (request, reply) => {
      if (!isAllowed(request.headers.authorization, token)) {
        throw new PlatformError("unauthenticated", "this node serves weights to nodes of its own zone", {
          remedy: "Give all weight streamers of the zone the same PEER_TOKEN.",
        });
      }
      const { fingerprint, file } = request.params;
      const range = parseRange(request.headers.range);
      const gone = new AbortController();
      request.raw.once("close", () => gone.abort());
      const signal = AbortSignal.any([gone.signal, AbortSignal.timeout(waitMs)]);
      const shared = await cache.share(fingerprint, Number(file), range, signal);
      if (shared === undefined) throw new PlatformError("notFound", "this node has not got the range");
      const { offset, length } = range;
      const last = offset + length - 1;
      const { path, base } = shared;
      served.inc(length);
      return reply
        .code(206)
        .header("content-type", "application/octet-stream")
        .header("content-length", length)
        .header("content-range", `bytes ${offset}-${last}/${shared.bytes}`)
        .send(createReadStream(path, { start: base + offset, end: base + last, highWaterMark: READ_BYTES }));
    },
  );
  return door;
}

function isAllowed(header: string | undefined, token: string): boolean {
  if (token === "") return true;
  const given = Buffer.from(header ?? "");
  const expected = Buffer.from(`Bearer ${token}`);
  return given.byteLength === expected.byteLength && timingSafeEqual(given, expected);
}

function parseRange(header: string | undefined): { offset: number; length: number } {
  const match = /^bytes=(\d{1,15})-(\d{1,15})$/.exec(header ?? "");
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  if (match === null || last < first) {
    throw new PlatformError("invalidArgument", "a request names one range: bytes=first-last", {
      field: "range",
    });
  }
  return { offset: first, length: last - first + 1 };
}
