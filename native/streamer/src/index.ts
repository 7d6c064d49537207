// The mover of bytes: ranges of objects from HTTP(S) servers straight into open files, on threads of its own. See
// README.md for what it is for and what it leaves to its caller.
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { getSystemErrorName } from "node:util";
import { PlatformError, toPlatformError } from "@pilotlight/errors";

export type MoveRequest = {
  url: URL;
  headers: Record<string, string>;
  /** The object must still have it; null where the source has no ETag that it can be asked for. */
  etag: string | null;
  /** Of the range in the object. */
  offset: number;
  /** Bytes, at least 1. */
  length: number;
  /** An open file descriptor. It must stay open until the promise has settled. */
  file: number;
  /** Where in the file the range begins. */
  position: number;
  /** The file's mapped memory: bytes are received there where its pages are or can be made, else written to the file. */
  memory: MappedMemory | null;
  /** CRC-32 of each block of the range, in order; the range begins on a block. */
  checksums: { blockBytes: number; blocks: Uint32Array } | null;
};

/**
 * `otherAnswer`: the server sent something else than this range of this object (an error, a redirect, another ETag). What
 * it means is for the caller to find out by asking again in its own way.
 */
export type MoveOutcome = { kind: "moved" } | { kind: "otherAnswer"; message: string };

export type Mover = {
  /** Rejects with cancelled, unavailable, corrupt, or what the file system says (resourceExhausted, …). */
  move(request: MoveRequest, signal: AbortSignal): Promise<MoveOutcome>;
  /** Maps the first bytes of a file, which is as long as that. The descriptor may be closed afterwards. */
  map(file: number, bytes: number): MappedMemory;
  /** Cancels what is running. */
  close(): void;
};

/** The beginning of a file in memory, mapped. The file may grow, and shrink where nothing is moved any more. */
export type MappedMemory = {
  readonly id: number;
  /** Makes its pages ready, in the background. Rejects when there is no room; what was made ready stays so. */
  populate(): Promise<void>;
  /** Ends `populate` soon; tells how many bytes from the beginning are ready. */
  settle(): number;
  /** Gives the mapping up once nothing is moved into it. The file's pages stay. */
  close(): void;
};

export type MoverOptions = {
  /** Ranges at once; more wait. Each costs 0.75 MB. */
  threads: number;
  /** Longest silence of a server, ms. */
  silenceMs: number;
  /** How long each of a server's addresses may take to accept a connection, ms. A range that is cancelled meanwhile ends after it. */
  connectTimeoutMs: number;
};

type NativeMover = {
  read(id: number, request: object): Promise<void>;
  cancel(id: number): void;
  map(id: number, file: number, bytes: number): void;
  populate(id: number): Promise<void>;
  settle(id: number): number;
  unmap(id: number): void;
  close(): void;
};

const ADDON = fileURLToPath(new URL("../streamer.node", import.meta.url));

/** Starts the mover's threads. Throws preconditionFailed when the addon is not built. */
export function createMover(options: MoverOptions): Mover {
  const native = new (loadAddon().NativeMover)(options.threads, options.silenceMs, options.connectTimeoutMs);
  let ids = 0;
  return {
    async move(request, signal) {
      if (signal.aborted) throw toPlatformError(signal.reason);
      ids = (ids + 1) >>> 0;
      const id = ids;
      const cancel = (): void => native.cancel(id);
      signal.addEventListener("abort", cancel, { once: true });
      try {
        await native.read(id, plain(request));
        return { kind: "moved" };
      } catch (thrown) {
        const failure = parseFailure(thrown);
        if (failure.kind === "answer") return { kind: "otherAnswer", message: failure.message };
        if (failure.kind === "cancelled" && signal.aborted) throw toPlatformError(signal.reason);
        throw toError(failure);
      } finally {
        signal.removeEventListener("abort", cancel);
      }
    },
    map(file, bytes) {
      ids = (ids + 1) >>> 0;
      const id = ids;
      asErrors(() => native.map(id, file, bytes));
      return {
        id,
        populate: () =>
          native.populate(id).catch((thrown) => {
            throw toError(parseFailure(thrown));
          }),
        settle: () => native.settle(id),
        close: () => native.unmap(id),
      };
    },
    close: () => native.close(),
  };
}

function loadAddon(): {
  NativeMover: new (threads: number, silenceMs: number, connectTimeoutMs: number) => NativeMover;
} {
  try {
    return createRequire(import.meta.url)(ADDON);
  } catch (cause) {
    throw new PlatformError(
      "preconditionFailed",
      `the streamer's native addon cannot be loaded from ${ADDON}`,
      {
        remedy: "Run npm start, or: node native/streamer/build.mjs",
        cause,
      },
    );
  }
}

function asErrors(step: () => void): void {
  try {
    step();
  } catch (thrown) {
    throw toError(parseFailure(thrown));
  }
}

function plain({ url, headers, memory, ...request }: MoveRequest): object {
  const secure = url.protocol === "https:";
  return {
    ...request,
    memory: memory?.id ?? null,
    secure,
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: url.port === "" ? (secure ? 443 : 80) : Number(url.port),
    authority: url.host,
    path: url.pathname + url.search,
    headers: Object.entries(headers).map(([name, value]) => ({ name, value })),
  };
}

type Failure = { kind: string; message: string; os: number | null };

function parseFailure(thrown: unknown): Failure {
  const { message } = thrown as Error;
  try {
    return JSON.parse(message) as Failure;
  } catch {
    return { kind: "internal", message, os: null };
  }
}

function toError({ kind, message, os }: Failure): PlatformError {
  switch (kind) {
    case "cancelled":
      return new PlatformError("cancelled", message);
    case "connection":
      return new PlatformError("unavailable", message, { remedy: "Check the endpoint and the network." });
    case "corrupt":
      return new PlatformError("corrupt", message);
    case "file":
      return toPlatformError(
        Object.assign(new Error(message), { code: os === null ? undefined : getSystemErrorName(-os) }),
      );
    default:
      return new PlatformError("internal", message);
  }
}
