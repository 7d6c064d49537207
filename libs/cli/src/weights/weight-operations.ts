// `pilotlight weights inspect|verify|load|convert-shards`: everything that needs a repository's bytes, without the platform.
// Loaded only when it is used.
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { joinUri, type ObjectStore, openStore } from "@pilotlight/object-store";
import { addTransformed } from "@pilotlight/onboarding";
import {
  DEFAULT_CONNECT_TIMEOUT_MS,
  DEFAULT_FLIGHT_LIMITS,
  Flight,
  isAbandoned,
  listObjects,
  openRangeReader,
  openSegmentFiles,
  type Repository,
  readRepository,
  type SegmentMaker,
  type VerifiedFile,
  verifyWeights,
} from "@pilotlight/weights";
import type { Context } from "../context.ts";
import { bucketOf } from "../endpoints.ts";
import { Unsuccessful } from "../exit-codes.ts";
import { formatBytes, formatDuration, formatProgress } from "../text/format.ts";
import { table } from "../text/table.ts";
import { version } from "../version.ts";
import { createLiveView } from "../view/live-view.ts";

const MiB = 1024 * 1024;
const RESERVE_BYTES = 256 * MiB;
const PROGRESS_INTERVAL_MS = 250;
const SHARED_MEMORY = "/dev/shm";

/** Opens a repository: a URI of any store, `bucket://…` in the platform's bucket, or a folder. */
async function withRepository<T>(
  context: Context,
  place: string,
  work: (store: ObjectStore, repository: Repository) => Promise<T>,
): Promise<T> {
  const store = openStore(uriOf(context, place));
  try {
    const signal = context.terminal.interrupted;
    return await work(store, await readRepository(store, await listObjects(store, signal), signal));
  } finally {
    await store.close();
  }
}

function uriOf({ endpoints, terminal }: Context, place: string): string {
  if (place.startsWith("bucket://")) return joinUri(bucketOf(endpoints, undefined), place.slice(9));
  return /^[a-z][a-z0-9+.-]*:\/\//.test(place) ? place : pathToFileURL(resolve(terminal.cwd, place)).href;
}

/** What a repository consists of, from its headers alone. */
export function inspect(context: Context, place: string): Promise<void> {
  return withRepository(context, place, async (store, repository) => {
    const dtypes = new Map<string, { tensors: number; bytes: number }>();
    for (const { header } of repository.weights) {
      for (const { dtype, length } of header.tensors) {
        const sum = dtypes.get(dtype) ?? { tensors: 0, bytes: 0 };
        dtypes.set(dtype, { tensors: sum.tensors + 1, bytes: sum.bytes + length });
      }
    }
    const result = {
      uri: store.uri,
      bytes: repository.bytesTotal,
      tensors: repository.tensorsTotal,
      dtypes: Object.fromEntries(dtypes),
      weights: repository.weights.map(({ key, bytes, etag, header, digest }) => ({
        key,
        bytes,
        etag,
        tensors: header.tensors.length,
        recorded: digest !== undefined,
      })),
      files: [...repository.files].map(([key, bytes]) => ({ key, bytes: bytes.byteLength })),
    };
    context.show(result, () => [
      `${result.uri}: ${result.tensors} tensors, ${formatBytes(result.bytes)}`,
      ...table(
        ["FILE", "SIZE", "TENSORS", "CHECKSUMS"],
        result.weights.map((one) => [
          one.key,
          formatBytes(one.bytes),
          String(one.tensors),
          one.recorded ? "recorded" : "none",
        ]),
      ),
      ...table(
        ["DTYPE", "TENSORS", "SIZE"],
        [...dtypes].map(([dtype, sum]) => [dtype, String(sum.tensors), formatBytes(sum.bytes)]),
      ),
    ]);
  });
}

/** Reads everything and compares it with the record. Ends badly when a byte is wrong. */
export function verify(context: Context, place: string): Promise<void> {
  return withRepository(context, place, async (store, repository) => {
    const progress = progressView(context, repository.bytesTotal);
    const files: VerifiedFile[] = [];
    for await (const file of verifyWeights(store, repository, {
      onBytes: progress.add,
      signal: context.terminal.interrupted,
    })) {
      files.push(file);
    }
    progress.end();
    context.show({ uri: store.uri, files }, () =>
      table(
        ["FILE", "SIZE", "BYTES ARE", "SHA-256"],
        files.map(({ key, bytes, verdict, sha256 }) => [key, formatBytes(bytes), verdict, sha256]),
      ),
    );
    const wrong = files.filter(({ verdict }) => verdict === "wrong").map(({ key }) => key);
    if (wrong.length > 0) throw new Unsuccessful(`not what was recorded: ${wrong.join(", ")}`);
  });
}

/** Loads as a replica's start would, into shared memory, and gives it back: what a start here would take. */
export function load(context: Context, place: string): Promise<void> {
  return withRepository(context, place, async (store, repository) => {
    const startedAt = performance.now();
    const reader = openRangeReader({
      threads: DEFAULT_FLIGHT_LIMITS.requestsMax,
      silenceMs: DEFAULT_FLIGHT_LIMITS.chunkDeadlineMs,
      connectTimeoutMs: DEFAULT_CONNECT_TIMEOUT_MS,
      onSlow: (reason) => context.terminal.err(`loading without the native mover: ${reason}`),
    });
    try {
      await withSegments(async (maker) => {
        const segments = await maker.create(repository, store, () => false);
        const flight = new Flight({
          repository,
          store,
          segments,
          limits: DEFAULT_FLIGHT_LIMITS,
          readRange: reader.readRange,
          now: () => performance.now(),
        });
        const stop = (): void => flight.cancel();
        context.terminal.interrupted.addEventListener("abort", stop, { once: true });
        try {
          await follow(context, flight);
          show(context, store.uri, flight, (performance.now() - startedAt) / 1000);
        } finally {
          flight.cancel();
          await flight.done;
          flight.segments.remove();
        }
      });
    } finally {
      reader.close();
    }
  });
}

async function follow(context: Context, flight: Flight): Promise<void> {
  const view = createLiveView(context.terminal);
  for await (const event of flight.events(true, context.terminal.interrupted)) {
    if (event.kind !== "progress") continue;
    const tenth = Math.floor((event.bytesDone / event.bytesTotal) * 10) * 10;
    view.show([{ key: "load", text: formatProgress(event), fact: `${tenth} %` }]);
  }
  view.end();
}

function show(context: Context, uri: string, flight: Flight, seconds: number): void {
  const { requests, retries, hedges } = flight.stats;
  const bytes = flight.repository.bytesTotal;
  const result = {
    uri,
    bytes,
    bytesFetched: flight.bytesFetched,
    tensors: flight.repository.tensorsTotal,
    seconds,
    gigabytesPerSecond: bytes / 1e9 / seconds,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    requests,
    retries,
    hedges,
  };
  context.show(result, () => [
    `${formatBytes(bytes)} in ${formatDuration(seconds * 1000)}: ${result.gigabytesPerSecond.toFixed(2)} GB/s, ${result.tensors} tensors`,
    `  ${requests} requests, ${retries} repeated, ${hedges} asked for twice; peak memory ${formatBytes(result.peakRssBytes)}`,
  ]);
}

/** Segments of this process alone; nothing of them is left, nor of one that was killed. */
async function withSegments(work: (maker: SegmentMaker) => Promise<void>): Promise<void> {
  const prefixes = [SHARED_MEMORY, tmpdir()].map((place) =>
    join(place, `pilotlight-load-${userInfo().uid}-`),
  );
  for (const prefix of prefixes) await removeAbandoned(prefix);
  const [memory = "", disk = ""] = await Promise.all(prefixes.map((prefix) => mkdtemp(prefix)));
  try {
    const segments = openSegmentFiles({
      memory: { directory: memory, bytesMax: Number.MAX_SAFE_INTEGER },
      disk: { directory: disk, bytesMax: Number.MAX_SAFE_INTEGER },
      reserveBytes: RESERVE_BYTES,
    });
    try {
      await work(segments);
    } finally {
      segments.close();
    }
  } finally {
    await rm(memory, { recursive: true, force: true });
    await rm(disk, { recursive: true, force: true });
  }
}

/** Folders whose owner was killed: they can be taken. */
async function removeAbandoned(prefix: string): Promise<void> {
  for (const name of await readdir(dirname(prefix))) {
    const directory = join(dirname(prefix), name);
    if (directory.startsWith(prefix) && isAbandoned(directory))
      await rm(directory, { recursive: true, force: true });
  }
}

/** Writes the repository again, cut into shards of another size, with a record of its own. */
export async function convertShards(
  context: Context,
  place: string,
  options: { to: string; shardMb: number },
): Promise<void> {
  const to = openStore(uriOf(context, options.to));
  const view = createLiveView(context.terminal);
  try {
    const { record } = await addTransformed({
      from: uriOf(context, place),
      to,
      tool: `pilotlight ${version()}`,
      transformation: { scheme: null, shardBytesMax: options.shardMb * 1e6, ranks: 1, judge: false },
      onProgress: (progress) => {
        if (progress.step !== "writing") return;
        const { file } = progress;
        view.show([
          { key: file, text: `${file}  ${formatProgress({ ...progress, bytesPerSecond: 0 })}`, fact: file },
        ]);
      },
      signal: context.terminal.interrupted,
    });
    view.end();
    const shards = Object.keys(record.files).filter((key) => key.endsWith(".safetensors"));
    context.show({ uri: to.uri, shards, record }, () => [`${to.uri}: weights in ${shards.length} files`]);
  } finally {
    await to.close();
  }
}

function progressView(context: Context, bytesTotal: number) {
  const view = createLiveView(context.terminal);
  const startedAt = performance.now();
  let bytesDone = 0;
  let shownAt = Number.NEGATIVE_INFINITY;
  return {
    add(bytes: number): void {
      bytesDone += bytes;
      const now = performance.now();
      if (now - shownAt < PROGRESS_INTERVAL_MS) return;
      shownAt = now;
      const bytesPerSecond = bytesDone / Math.max(0.001, (now - startedAt) / 1000);
      const tenth = Math.floor((bytesDone / bytesTotal) * 10) * 10;
      const text = formatProgress({ bytesDone, bytesTotal, bytesPerSecond });
      view.show([{ key: "read", text, fact: `${tenth} %` }]);
    },
    end: () => view.end(),
  };
}
