// Collects a layer's stored chunks into packs and sends full packs to the bucket while the next one fills. A pack is named
// by its SHA-256, so sending one that is there already changes nothing.
//   P1. Packs hold chunks in the layer's order, and close by size alone: the same chunks give the same packs.
//   P2. `add` waits when too many packs are on their way; memory is packBytes for each layer and each upload.
import { createSha256 } from "@pilotlight/codec";
import { PlatformError } from "@pilotlight/errors";
import { type LayerPack, packKey } from "@pilotlight/image-format";
import type { ObjectStore } from "@pilotlight/object-store";
import type { BufferPool } from "./buffer-pool.ts";
import type { Semaphore } from "./semaphore.ts";

/** Well below the grace period of garbage collection. */
const REFRESH_AFTER_MS = 3_600_000;

export type PackPlace = { pack: number; packOffset: number };

export type PackWriterOptions = {
  bucket: ObjectStore;
  packBytes: number;
  /** Of buffers of `packBytes`. */
  buffers: BufferPool;
  uploads: Semaphore;
  signal: AbortSignal;
  /** Told after each upload; `stored` is false when the bucket had the pack. */
  onUpload: (bytes: number, stored: boolean) => void;
};

export class PackWriter {
  readonly #packs: LayerPack[] = [];
  readonly #options: PackWriterOptions;
  readonly #sending: Promise<void>[] = [];
  #buffer: Buffer | undefined;
  #length = 0;
  #closed = 0;
  #failure: unknown;

  constructor(options: PackWriterOptions) {
    this.#options = options;
  }

  /** Places stored bytes; they are copied before this returns its promise. */
  async add(wire: Buffer): Promise<PackPlace> {
    if (this.#length + wire.length > this.#options.packBytes) await this.#close();
    if (this.#failure !== undefined) throw this.#failure;
    this.#buffer ??= this.#options.buffers.acquire();
    wire.copy(this.#buffer, this.#length);
    const place = { pack: this.#closed, packOffset: this.#length };
    this.#length += wire.length;
    return place;
  }

  /** Sends the last pack and waits until the bucket has all of them. */
  async finish(): Promise<LayerPack[]> {
    if (this.#length > 0) await this.#close();
    await Promise.all(this.#sending);
    if (this.#failure !== undefined) throw this.#failure;
    return this.#packs;
  }

  async #close(): Promise<void> {
    const { buffers, uploads } = this.#options;
    const buffer = this.#buffer as Buffer;
    const bytes = buffer.subarray(0, this.#length);
    const number = this.#closed++;
    this.#buffer = undefined;
    this.#length = 0;
    buffers.busy();
    const release = await uploads.acquire();
    const sent = this.#send(number, bytes)
      .catch((error: unknown) => {
        this.#failure ??= error;
        return false;
      })
      .then((taken) => {
        // A bucket may refuse a request that is still being sent.
        buffers.release(taken ? buffer : undefined);
        release();
      });
    this.#sending.push(sent);
  }

  /** True: the bucket took the bytes. False: it had them. */
  async #send(number: number, bytes: Buffer): Promise<boolean> {
    const { bucket, signal, onUpload } = this.#options;
    const hash = createSha256();
    await hash.update(bytes);
    const sha256 = hash.digest();
    this.#packs[number] = { sha256, size: bytes.length };
    try {
      // Without a digest for the bucket to check: it would hash the same bytes in the same memory once more.
      await bucket.put(packKey(sha256), bytes, { ifNoneMatch: "*", signal });
      onUpload(bytes.length, true);
      return true;
    } catch (error) {
      if (!(error instanceof PlatformError && error.code === "preconditionFailed")) throw error;
      await this.#refresh(packKey(sha256), bytes);
      onUpload(bytes.length, false);
      return false;
    }
  }

  /** An old pack may be about to be collected as garbage: writing it again makes it young. */
  async #refresh(key: string, bytes: Buffer): Promise<void> {
    const { bucket, signal } = this.#options;
    const info = await bucket.head(key, { signal });
    if (info === undefined || Date.now() - info.modifiedAt > REFRESH_AFTER_MS)
      await bucket.put(key, bytes, { signal });
  }
}
