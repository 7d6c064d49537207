// Images shared with the other nodes of the zone: tells the processes who has which image and others what is here, and brings
// the image object from a node that has it. The bytes of images go from process to process (rust/peers.rs, rust/door.rs).
//   S1. What a peer sends is believed nothing: the object's first part comes from the bucket, and all the rest hangs by it.
//   S2. A peer is a help only: whatever fails with it, the bucket is asked.
import { setTimeout as sleep } from "node:timers/promises";
import { digestHex, imageKey, parseImageFile } from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import { ownerOf, type Peer, type Peers } from "@pilotlight/peers";
import * as z from "zod";
import type { ImagefsTimes } from "./times.ts";

export type SharingOptions = {
  nodeId: string;
  /** Where other nodes read from this one. Port 0: any. */
  host: string;
  port: number;
  /** What the nodes of the zone share; empty: the network keeps strangers out. */
  token: string;
  /** 0: as fast as it goes. */
  uploadBytesPerSecond: number;
  /** Joins the others, by the port that was opened. Keys are the hex part of manifest digests. */
  join(port: number, onChange: () => void): Peers;
};

const REFRESH_INTERVAL_MS = 1_000;
/** A node that is still fetching the image object is asked for it this often. */
const OBJECT_ASK_INTERVAL_MS = 40;
/** The object's header and manifest, as a rule. */
const OBJECT_HEAD_BYTES = 16 << 10;
const NODE_HEADER = "x-pilotlight-node";

const answerSchema = z.object({
  port: z.number().int().min(1).max(65_535),
  holdings: z.record(z.string(), z.enum(["loading", "complete"])),
});

type SharingTimes = Pick<ImagefsTimes, "peerListenMs" | "peerObjectTimeoutMs">;
type Call = (op: string, fields: Record<string, unknown>) => Promise<unknown>;

export class Sharing {
  readonly #options: SharingOptions;
  readonly #times: SharingTimes;
  readonly #call: Call;
  readonly #isRunning: () => Promise<boolean>;
  readonly #said = new Map<string, "loading" | "complete">();
  /** Announced ahead of their mounts. */
  readonly #coming = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;
  #port: number;
  #peers: Peers | undefined;
  #refreshing: Promise<void> | undefined;
  #again = false;

  private constructor(
    options: SharingOptions,
    times: SharingTimes,
    call: Call,
    isRunning: () => Promise<boolean>,
  ) {
    this.#options = options;
    this.#times = times;
    this.#call = call;
    this.#isRunning = isRunning;
    this.#port = options.port;
    this.#timer = setInterval(() => void this.refresh().catch(() => undefined), REFRESH_INTERVAL_MS).unref();
  }

  /** Opens the door and joins the others. `isRunning`: whether the processes are there, without starting them. */
  static async start(
    options: SharingOptions,
    times: SharingTimes,
    call: Call,
    isRunning: () => Promise<boolean>,
  ): Promise<Sharing> {
    const sharing = new Sharing(options, times, call, isRunning);
    try {
      await sharing.#tell();
    } catch (error) {
      clearInterval(sharing.#timer);
      throw error;
    }
    sharing.#peers = options.join(sharing.#port, () => void sharing.refresh().catch(() => undefined));
    await sharing.refresh();
    return sharing;
  }

  /** Says that this node is about to start an image, so that nodes that start together know each other. */
  announce(key: string): () => void {
    this.#coming.set(key, (this.#coming.get(key) ?? 0) + 1);
    if (!this.#said.has(key)) this.#say(key, "loading");
    return () => {
      const left = (this.#coming.get(key) ?? 1) - 1;
      if (left > 0) this.#coming.set(key, left);
      else this.#coming.delete(key);
    };
  }

  /** Announces the image, listens for a moment, and says whether this node is the one that acts for all. */
  async takeTurn(key: string, signal: AbortSignal): Promise<{ mine: boolean; end(): void }> {
    const end = this.announce(key);
    try {
      await sleep(this.#times.peerListenMs * (1 + Math.random()), undefined, { signal });
    } catch (error) {
      end();
      throw error;
    }
    return { mine: this.#ownerOf(key, this.#peers?.peers(key) ?? []) === undefined, end };
  }

  /** Brings the processes up to date: on every change, and now and then, for they may have been restarted. */
  async refresh(): Promise<void> {
    if (this.#refreshing !== undefined) {
      this.#again = true;
      return this.#refreshing;
    }
    this.#refreshing = (async () => {
      do {
        this.#again = false;
        if (await this.#isRunning()) await this.#tell();
      } while (this.#again);
    })();
    try {
      await this.#refreshing;
    } finally {
      this.#refreshing = undefined;
    }
  }

  /**
   * The image object from another node, checked against its first part in the bucket. Undefined: nobody has it, or not in time,
   * or the bucket's turn is this node's own.
   */
  async imageObject(
    bucket: ObjectStore,
    manifestDigest: string,
    bytesMax: number,
  ): Promise<Buffer | undefined> {
    const key = digestHex(manifestDigest);
    const peers = this.#peers?.peers(key) ?? [];
    const owner = this.#ownerOf(key, peers);
    if (owner === undefined) return undefined;
    const head = bucket.get(imageKey(manifestDigest), { range: { offset: 0, length: OBJECT_HEAD_BYTES } });
    const [first, theirs] = await Promise.all([
      head.catch(() => undefined),
      this.#askForObject(owner, key, bytesMax),
    ]);
    if (first === undefined || theirs === undefined || theirs.length !== first.info.size) return undefined;
    // The manifest in the first part names the checksum of the index, and the index those of everything else.
    const sameHead = theirs.subarray(0, first.bytes.length).equals(first.bytes);
    return sameHead && isWithin(theirs, first.bytes.length) ? theirs : undefined;
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#peers?.close();
  }

  /** Somebody who has it all, or whose turn it is to read it. Undefined: this node's. */
  #ownerOf(key: string, peers: readonly Peer[]): Peer | undefined {
    const complete = peers.filter((peer) => peer.complete);
    const nodeIds = complete.length > 0 ? complete : [{ nodeId: this.#options.nodeId }, ...peers];
    const owner = ownerOf(
      nodeIds.map(({ nodeId }) => nodeId),
      key,
    );
    return peers.find(({ nodeId }) => nodeId === owner);
  }

  async #askForObject(peer: Peer, key: string, bytesMax: number): Promise<Buffer | undefined> {
    const { nodeId, token } = this.#options;
    const headers = { [NODE_HEADER]: nodeId, ...(token !== "" && { authorization: `Bearer ${token}` }) };
    const signal = AbortSignal.timeout(this.#times.peerObjectTimeoutMs);
    try {
      for (;;) {
        const response = await fetch(new URL(`/images/${key}/image`, peer.url), {
          headers,
          redirect: "error",
          signal,
        });
        if (response.status === 200 && Number(response.headers.get("content-length")) <= bytesMax)
          return Buffer.from(await response.arrayBuffer());
        await response.body?.cancel();
        if (response.status !== 404) return undefined;
        await sleep(OBJECT_ASK_INTERVAL_MS, undefined, { signal });
      }
    } catch {
      return undefined;
    }
  }

  async #tell(): Promise<void> {
    const { nodeId, token, host, uploadBytesPerSecond } = this.#options;
    const keys = new Set([...this.#said.keys(), ...this.#coming.keys()]);
    const images = Object.fromEntries([...keys].map((key) => [key, this.#peers?.peers(key) ?? []]));
    const answer = answerSchema.parse(
      await this.#call("peers", { nodeId, token, host, port: this.#port, uploadBytesPerSecond, images }),
    );
    this.#port = answer.port;
    if (this.#peers === undefined) return;
    const holdings = new Map(Object.entries(answer.holdings));
    for (const [key, held] of holdings) if (this.#said.get(key) !== held) this.#say(key, held);
    for (const key of [...this.#said.keys()])
      if (!holdings.has(key) && !this.#coming.has(key)) {
        this.#said.delete(key);
        this.#peers.hold(key, "gone");
      }
  }

  #say(key: string, held: "loading" | "complete"): void {
    this.#said.set(key, held);
    this.#peers?.hold(key, held);
  }
}

/** Whether header and manifest lie within the first `bytes`, and the object is a whole image. */
function isWithin(object: Buffer, bytes: number): boolean {
  try {
    return parseImageFile(object).manifest.index.offset <= bytes;
  } catch {
    return false;
  }
}
