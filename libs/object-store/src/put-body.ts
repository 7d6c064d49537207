// How a body becomes an object, the same for every kind of bucket: what fits into one part is one request, a stream that
// outgrows it goes up in parts that count only once all are there and the promised digest was right. Memory is bounded
// whatever the object's size.
import { createHash } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import { cutIntoParts } from "./parts.ts";
import type { ObjectInfo, PutBody, PutOptions } from "./store.ts";

const PARTS_IN_FLIGHT_MAX = 4;

/** The two ways in which a kind of bucket takes bytes. */
export type BodyWriter = {
  single(bytes: Uint8Array): Promise<ObjectInfo>;
  /** `verify` is called after the last part and before anything counts; what it throws undoes the upload. */
  inParts(parts: AsyncIterable<Uint8Array>, verify: () => void): Promise<ObjectInfo>;
};

/** Stores a body of any kind. Throws `corrupt`, with nothing stored, when it lacks the promised digest. */
export async function putBody(
  key: string,
  body: PutBody,
  options: PutOptions,
  writer: BodyWriter,
): Promise<ObjectInfo> {
  if (typeof body === "string" || body instanceof Uint8Array) {
    const bytes = typeof body === "string" ? Buffer.from(body) : body;
    checkDigest(key, options.sha256, () => createHash("sha256").update(bytes).digest("hex"));
    return writer.single(bytes);
  }
  const hash = options.sha256 === undefined ? undefined : createHash("sha256");
  const hashed = hash === undefined ? body : tap(body, (chunk) => hash.update(chunk));
  const verify = (): void => checkDigest(key, options.sha256, () => hash?.digest("hex"));
  const parts = cutIntoParts(hashed);
  try {
    const first = await parts.next();
    const second = first.done ? first : await parts.next();
    if (second.done) {
      verify();
      return await writer.single(first.done ? new Uint8Array() : first.value);
    }
    return await writer.inParts(prepend([first.value, second.value], parts), verify);
  } finally {
    await parts.return(undefined);
  }
}

/** Uploads with a few parts in flight; the first failure stops the rest and is thrown. Returns the bytes of all. */
export async function uploadParts(
  parts: AsyncIterable<Uint8Array>,
  outer: AbortSignal | undefined,
  upload: (index: number, body: Uint8Array, signal: AbortSignal) => Promise<void>,
): Promise<number> {
  const failed = new AbortController();
  const signal = outer === undefined ? failed.signal : AbortSignal.any([outer, failed.signal]);
  const inFlight = new Set<Promise<void>>();
  let size = 0;
  let index = 0;
  let failure: unknown;
  const fail = (error: unknown): void => {
    failure ??= error;
    failed.abort();
  };
  try {
    for await (const body of parts) {
      const promise: Promise<void> = upload(index, body, signal)
        .catch(fail)
        .then(() => void inFlight.delete(promise));
      inFlight.add(promise);
      index += 1;
      size += body.byteLength;
      if (inFlight.size >= PARTS_IN_FLIGHT_MAX) await Promise.race(inFlight);
      if (failure !== undefined) break;
    }
  } catch (error) {
    fail(error);
  }
  await Promise.all(inFlight);
  if (failure !== undefined) throw failure;
  return size;
}

/** What an `ifMatch` write of an object that no longer exists ends with. */
export function goneMeanwhile(key: string, cause: unknown): PlatformError {
  return new PlatformError("preconditionFailed", `${key} is gone`, {
    cause,
    remedy: "Somebody else was first: read it again, then decide.",
  });
}

function checkDigest(key: string, expected: string | undefined, actual: () => string | undefined): void {
  if (expected === undefined) return;
  const digest = actual();
  if (digest !== expected) {
    throw new PlatformError("corrupt", `${key}: the bytes have SHA-256 ${digest}, promised was ${expected}`);
  }
}

async function* tap<T>(source: AsyncIterable<T>, see: (item: T) => void): AsyncGenerator<T> {
  for await (const item of source) {
    see(item);
    yield item;
  }
}

async function* prepend<T>(first: T[], rest: AsyncIterable<T>): AsyncGenerator<T> {
  yield* first;
  yield* rest;
}
