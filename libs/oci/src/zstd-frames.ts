// Cuts a zstd stream at its frames' ends. Node's streaming decoder drops whatever follows a frame within one piece, and
// layers with many frames are ordinary (zstd:chunked, pzstd). Blocks are only measured here, never decoded.
// Format: RFC 8878, sections 3.1.1 and 3.1.2.
import { PlatformError } from "@pilotlight/errors";

const MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;

type Expect =
  | { at: "magic" }
  | { at: "skippableLength" }
  | { at: "frameHeader" }
  | { at: "frameRest"; bytes: number; checksum: boolean }
  | { at: "blockHeader"; checksum: boolean }
  | { at: "body"; left: number; then: Expect | "frameEnd" };

/** Yields each frame as an iterable of its pieces. A frame must be read to its end before the next one is asked for. */
export async function* zstdFrames(source: AsyncIterable<Buffer>): AsyncGenerator<AsyncGenerator<Buffer>> {
  const iterator = source[Symbol.asyncIterator]();
  let rest: Buffer = Buffer.alloc(0);
  const more = async (): Promise<boolean> => {
    while (rest.length === 0) {
      const next = await iterator.next();
      if (next.done === true) return false;
      rest = next.value;
    }
    return true;
  };
  try {
    while (await more()) {
      yield (async function* frame() {
        const splitter = new FrameMeter();
        while (await more()) {
          const taken = splitter.take(rest);
          const piece = rest.subarray(0, taken);
          rest = rest.subarray(taken);
          yield piece;
          if (splitter.done) return;
        }
        throw new PlatformError("corrupt", "the zstd stream ends in the middle of a frame", {
          remedy: "The layer is truncated; push the image again.",
        });
      })();
    }
  } finally {
    await iterator.return?.();
  }
}

/** Measures one frame. */
class FrameMeter {
  done = false;
  #expect: Expect = { at: "magic" };
  #head = Buffer.alloc(18);
  #headFilled = 0;

  /** How many of these bytes belong to the frame. */
  take(bytes: Buffer): number {
    let position = 0;
    while (!this.done && position < bytes.length) {
      const expect = this.#expect;
      if (expect.at === "body") {
        const taken = Math.min(expect.left, bytes.length - position);
        expect.left -= taken;
        position += taken;
        if (expect.left === 0) this.#move(expect.then);
        continue;
      }
      const wanted = headBytes(expect);
      const taken = bytes.copy(this.#head, this.#headFilled, position, position + wanted - this.#headFilled);
      this.#headFilled += taken;
      position += taken;
      if (this.#headFilled === wanted) {
        this.#headFilled = 0;
        this.#onHead(expect);
      }
    }
    return position;
  }

  #onHead(expect: Exclude<Expect, { at: "body" }>): void {
    switch (expect.at) {
      case "magic": {
        const magic = this.#head.readUInt32LE(0);
        if (magic === MAGIC) this.#expect = { at: "frameHeader" };
        else if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) this.#expect = { at: "skippableLength" };
        else
          throw new PlatformError("corrupt", "the layer holds something that is no zstd frame", {
            remedy: "Push the image again.",
          });
        return;
      }
      case "skippableLength":
        this.#body(this.#head.readUInt32LE(0), "frameEnd");
        return;
      case "frameHeader": {
        const descriptor = this.#head[0] ?? 0;
        const single = (descriptor & 0x20) !== 0;
        const sizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
        const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
        const checksum = (descriptor & 4) !== 0;
        const bytes = (single ? 0 : 1) + sizeBytes + dictionaryBytes;
        this.#move(bytes === 0 ? { at: "blockHeader", checksum } : { at: "frameRest", bytes, checksum });
        return;
      }
      case "frameRest":
        this.#move({ at: "blockHeader", checksum: expect.checksum });
        return;
      case "blockHeader": {
        const header = this.#head.readUIntLE(0, 3);
        const type = (header >> 1) & 3;
        const size = type === 1 ? 1 : header >> 3;
        const last = (header & 1) === 1;
        if (!last) this.#body(size, { at: "blockHeader", checksum: expect.checksum });
        else this.#body(size + (expect.checksum ? 4 : 0), "frameEnd");
        return;
      }
      default:
        expect satisfies never;
    }
  }

  #body(left: number, then: Expect | "frameEnd"): void {
    if (left === 0) this.#move(then);
    else this.#expect = { at: "body", left, then };
  }

  #move(to: Expect | "frameEnd"): void {
    if (to === "frameEnd") this.done = true;
    else this.#expect = to;
  }
}

function headBytes(expect: Exclude<Expect, { at: "body" }>): number {
  switch (expect.at) {
    case "magic":
    case "skippableLength":
      return 4;
    case "frameHeader":
      return 1;
    case "frameRest":
      return expect.bytes;
    case "blockHeader":
      return 3;
    default:
      return expect satisfies never;
  }
}
