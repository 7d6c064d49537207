import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addModel } from "@pilotlight/models";
import { openStore } from "@pilotlight/object-store";
import {
  S3_START_TIMEOUT_MS,
  startAzureServer,
  startGoogleServer,
  startS3Server,
} from "@pilotlight/object-store/testing";
import {
  listObjects,
  openRangeReader,
  openSegmentFiles,
  type RangeReader,
  readRange,
  readRepository,
  type SegmentFilesOptions,
  type SpareSource,
  type WeightsEvent,
} from "@pilotlight/weights";
import { mountHugeMemory, unmountHugeMemory } from "@pilotlight/weights/huge-memory";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Lease, WeightCache, type WeightCacheOptions } from "./weight-cache.ts";

const QUICK = { retryDelayMs: 20, progressIntervalMs: 250, hedgeShareMax: 0.05, hedgeAfterMsMin: 250 };
type TensorReady = Extract<WeightsEvent, { kind: "tensor" }>;

const MiB = 1024 * 1024;
/** Outside file:// so that bytes are moved; 11 MB in three shards, with checksums. */
const MODEL =
  "generated://llama/tiny?hidden=256&intermediate=1024&headSize=64&heads=4&keyValueHeads=4&layers=5&shardMB=5";

afterAll(() => native.close());
const native = openRangeReader({
  threads: 4,
  silenceMs: 2000,
  connectTimeoutMs: 2000,
  onSlow: (reason) => {
    throw new Error(reason);
  },
});

const WAYS: [string, RangeReader, number, boolean][] = [
  ["the plain reader", readRange, 0, false],
  ["the native reader", native.readRange, 0, false],
  // Less than the model has, so that both ways into a segment are gone.
  ["the native reader into memory that is ready", native.readRange, 7 * MiB, false],
];
// Only root can mount such memory.
if (process.geteuid?.() === 0) WAYS.push(["the native reader into huge pages", native.readRange, 0, true]);

describe.each(WAYS)("with %s", (_reader, rangeReader, spareBytes, hugePages) => {
  let folder: string;
  let repository: string;
  let server: Server;
  let handle: (request: IncomingMessage, response: ServerResponse, file: string) => void;
  let requests: { method: string; file: string; range: string | undefined }[];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pilotlight-weights-"));
    await addModel({ from: MODEL, to: openStore(`file://${folder}/original`) });
    // A plain web server over a copy of the repository that a test may damage.
    server = createServer((request, response) => {
      const file = decodeURIComponent((request.url ?? "/").slice(1));
      requests.push({ method: request.method ?? "", file, range: request.headers.range });
      handle(request, response, join(repository, file));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  });
  afterAll(async () => {
    server.close();
    await rm(folder, { recursive: true });
  });

  let caches: { cache: WeightCache; close: () => void }[];
  let count = 0;
  beforeEach(async () => {
    repository = join(folder, `repository-${++count}`);
    await cp(join(folder, "original"), repository, { recursive: true });
    handle = serveFile;
    requests = [];
    caches = [];
  });
  afterEach(async () => {
    for (const { cache, close } of caches) {
      await cache.close();
      close();
    }
    if (hugePages) unmountHugeMemory(places().memory);
  });

  const source = () => `http://127.0.0.1:${(server.address() as { port: number }).port}/`;
  const places = () => ({ memory: join(folder, `memory-${count}`), disk: join(folder, `disk-${count}`) });

  function makeCache(segments: Partial<SegmentFilesOptions> = {}, options: Partial<WeightCacheOptions> = {}) {
    if (hugePages) mountHugeMemory(places().memory);
    const maker = openSegmentFiles({
      memory: { directory: places().memory, bytesMax: 100 * MiB },
      disk: { directory: places().disk, bytesMax: 100 * MiB },
      reserveBytes: 0,
      mover: native.mover,
      spare: spareBytes === 0 || native.mover === undefined ? undefined : spareOf(native.mover),
      ...segments,
    });
    const cache = new WeightCache({
      openStore: (uri) =>
        openStore(uri, { retry: { attemptsMax: 3, initialDelayMs: 1, delayMsMax: 5 }, idleTimeoutMs: 2000 }),
      segments: maker,
      limits: {
        chunkBytes: 4 * MiB,
        requestsInitial: 4,
        requestsMax: 4,
        chunkDeadlineMs: 5000,
        chunkAttemptsMax: 3,
        ...QUICK,
      },
      readRange: rangeReader,
      revalidateMs: 1000,
      now: () => performance.now(),
      ...options,
    });
    caches.push({ cache, close: () => maker.close() });
    return cache;
  }

  const spareOf = (mover: SpareSource["mover"]): SpareSource => ({
    bytes: spareBytes,
    delayMs: 0,
    mover,
    onReady: () => {},
    onFailure: (reason) => {
      throw new Error(reason);
    },
  });

  async function drain(lease: Lease): Promise<WeightsEvent[]> {
    const events: WeightsEvent[] = [];
    for await (const event of lease.events) events.push(event);
    return events;
  }

  const tensorsOf = (events: WeightsEvent[]) =>
    events.filter((event): event is TensorReady => event.kind === "tensor");
  const completeOf = (events: WeightsEvent[]) => events.find((event) => event.kind === "complete");
  const weightReads = () =>
    requests.filter(({ method, file }) => method === "GET" && file.endsWith(".safetensors"));
  const segmentNames = () =>
    Object.values(places())
      .flatMap((place) => readdirSync(place))
      .filter((name) => !name.startsWith("owner") && !name.startsWith("spare"));

  async function originalOffsets(): Promise<Map<string, number>> {
    const store = openStore(`file://${folder}/original`);
    const signal = AbortSignal.timeout(10_000);
    const { weights } = await readRepository(store, await listObjects(store, signal), signal);
    await store.close();
    return new Map(weights.flatMap(({ header }) => header.tensors.map(({ name, offset }) => [name, offset])));
  }

  /** Every tensor's bytes in its segment equal those in the repository. */
  async function expectRightBytes(events: WeightsEvent[]): Promise<void> {
    const index = JSON.parse(await readFile(join(folder, "original/model.safetensors.index.json"), "utf8"));
    const tensors = tensorsOf(events);
    expect(new Set(tensors.map(({ name }) => name))).toEqual(new Set(Object.keys(index.weight_map)));
    const offsets = await originalOffsets();
    for (const { name, path, offset, length } of tensors) {
      const at = offsets.get(name) ?? Number.NaN;
      const original = readFileSync(join(folder, "original", index.weight_map[name])).subarray(
        at,
        at + length,
      );
      expect(
        readFileSync(path)
          .subarray(offset, offset + length)
          .equals(original),
        name,
      ).toBe(true);
    }
  }

  describe("loading", () => {
    test("gives the small files first, then every tensor with its bytes, then the sum", async () => {
      const lease = makeCache().load(source());
      const events = await drain(lease);
      const [opened] = events;
      expect(opened).toMatchObject({ kind: "opened", tensors: { length: 48 }, cached: false });
      expect(opened?.kind === "opened" && [...opened.files.keys()]).toContain("tokenizer.json");
      await expectRightBytes(events);
      expect(completeOf(events)).toMatchObject({
        bytesFetched: opened?.kind === "opened" ? opened.bytesTotal : 0,
      });
      lease.release();
    });
    test("simultaneous replicas share one flight, a later one the bytes", async () => {
      const cache = makeCache();
      const first = [cache.load(source()), cache.load(source()), cache.load(source())];
      const all = await Promise.all(first.map(drain));
      const reads = weightReads().length;
      for (const events of all) await expectRightBytes(events);
      expect(
        all.filter((events) => (completeOf(events) as { bytesFetched: number }).bytesFetched > 0),
      ).toHaveLength(1);
      const later = cache.load(source());
      const events = await drain(later);
      expect(events[0]).toMatchObject({ kind: "opened", cached: true });
      expect(completeOf(events)).toMatchObject({ bytesFetched: 0 });
      expect(weightReads()).toHaveLength(reads);
      expect(cache.held()).toMatchObject([{ pins: 4, complete: true }]);
      for (const lease of [...first, later]) lease.release();
      expect(cache.held()).toMatchObject([{ pins: 0, complete: true }]);
    });
    test("a directory on the same file system is mapped where it lies, checked but not copied", async () => {
      const lease = makeCache().load(`file://${repository}`);
      const events = await drain(lease);
      await expectRightBytes(events);
      expect(completeOf(events)).toMatchObject({ bytesFetched: 0 });
      expect(segmentNames().every((name) => name.startsWith("linked-"))).toBe(true);
      lease.release();
    });
    test.each([
      [
        "S3",
        async () => {
          const bucket = await startS3Server();
          return { ...bucket, options: { credentials: async () => bucket.credentials } };
        },
      ],
      [
        "Azure's blob",
        () => startAzureServer().then(({ env, ...server }) => ({ ...server, options: { env } })),
      ],
      ["Google's storage", async () => ({ ...(await startGoogleServer()), options: {} })],
    ])(
      "a %s server works the same",
      async (_kind, start) => {
        const { uri, options, stop } = await start();
        try {
          await addModel({ from: MODEL, to: openStore(uri("m"), options) });
          const lease = makeCache({}, { openStore: (uri) => openStore(uri, options) }).load(uri("m"));
          await expectRightBytes(await drain(lease));
          lease.release();
        } finally {
          await stop();
        }
      },
      S3_START_TIMEOUT_MS,
    );
    test("what an engine wants first is fetched first", async () => {
      const limits = ONE_BY_ONE;
      const order = ["model.norm.weight", "model.layers.4."];
      const lease = makeCache({}, { limits }).load(source(), { order });
      const events = await drain(lease);
      await expectRightBytes(events);
      const names = tensorsOf(events).map(({ name }) => name);
      expect(names.indexOf("model.norm.weight")).toBeLessThan(
        names.indexOf("model.layers.0.mlp.up_proj.weight"),
      );
      const ranges = weightReads().filter(({ range }) => range !== "bytes=0-262143");
      expect(ranges[0]?.file).toContain("00003-of-00003");
      expect(ranges.at(-1)?.file).not.toContain("00003-of-00003");
      lease.release();
      const wrong = (caches[0] as { cache: WeightCache }).cache.load(source(), {
        order: ["model.layers.9."],
      });
      await expect(drain(wrong)).rejects.toMatchObject({ code: "invalidArgument", field: "order" });
      wrong.release();
    });
    test("floats arrive converted, wherever ranges and elements begin; what is held plain stays plain", async () => {
      const values = await writeOddFloats(repository);
      const cache = makeCache();
      const [plain, narrow] = [cache.load(source()), cache.load(source(), { dtype: "BF16" })];
      const [same, converted] = await Promise.all([drain(plain), drain(narrow)]);
      expect(
        tensorsOf(same)
          .map(({ dtype }) => dtype)
          .sort(),
      ).toEqual(["F32", "I64", "U8"]);
      const [pad, floats, counts] = tensorsOf(converted).sort((a, b) => a.offset - b.offset) as [
        TensorReady,
        TensorReady,
        TensorReady,
      ];
      const bytesOf = ({ path, offset, length }: TensorReady) =>
        readFileSync(path).subarray(offset, offset + length);
      expect([pad.dtype, floats.dtype, counts.dtype]).toEqual(["U8", "BF16", "I64"]);
      expect(bytesOf(pad)).toEqual(Buffer.from([1, 2, 3]));
      expect(bytesOf(counts).readBigInt64LE(0)).toBe(77n);
      const got = new Uint16Array(new Uint8Array(bytesOf(floats)).buffer);
      expect(got.length).toBe(values.length);
      const wrong = values.findIndex(
        (value, i) => got[i] !== (new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0) >>> 16,
      );
      expect(wrong).toBe(-1);
      expect(cache.held()).toMatchObject([{ dtype: undefined }, { dtype: "BF16" }]);
      const [whole, half] = cache.held();
      expect(half?.bytes).toBeLessThan((whole?.bytes ?? 0) * 0.51);
      for (const lease of [plain, narrow]) lease.release();
      const again = cache.load(source(), { dtype: "BF16" });
      expect((await drain(again))[0]).toMatchObject({ cached: true });
      again.release();
    });
    test("a quantised model is not converted: its scales belong to its numbers", async () => {
      const config = JSON.parse(await readFile(join(repository, "config.json"), "utf8"));
      await writeFile(
        join(repository, "config.json"),
        JSON.stringify({ ...config, quantization_config: { bits: 4 } }),
      );
      const lease = makeCache().load(source(), { dtype: "F16" });
      await expect(drain(lease)).rejects.toMatchObject({ code: "preconditionFailed", field: "dtype" });
      lease.release();
      expect(segmentNames()).toEqual([]);
    });
    test("a prefetched model is there without a pin", async () => {
      const cache = makeCache();
      await cache.prefetch(source());
      expect(cache.held()).toMatchObject([{ pins: 0, complete: true }]);
      expect((await drain(cache.load(source())))[0]).toMatchObject({ cached: true });
    });
  });

  describe("room", () => {
    const bytes = async () => {
      const cache = makeCache();
      await cache.prefetch(source());
      const [held] = cache.held();
      await cache.close();
      caches.pop()?.close();
      return held?.bytes ?? 0;
    };
    test("the least recently used unpinned weights go first, pinned ones never", async () => {
      const size = await bytes();
      const cache = makeCache({
        memory: { directory: places().memory, bytesMax: 2.5 * size },
        disk: { directory: places().disk, bytesMax: 0 },
      });
      // Three addresses of the same repository are three sources.
      handle = (request, response, file) =>
        serveFile(request, response, file.replace(/\/(one|two|three)\//, "/"));
      const [one, two, three] = ["one", "two", "three"].map((part) => `${source()}${part}`) as [
        string,
        string,
        string,
      ];
      const pinned = cache.load(one);
      await drain(pinned);
      await cache.prefetch(two);
      await cache.prefetch(three);
      expect(cache.held().map((held) => held.source)).toEqual([one, three]);
      // In one file, parts begin on pages.
      const padding = spareBytes === 0 ? 0 : 3 * 4096;
      expect(cache.usage().bytesUsed).toBeGreaterThanOrEqual(2 * size);
      expect(cache.usage().bytesUsed).toBeLessThanOrEqual(2 * (size + padding));
      const alsoPinned = cache.load(three);
      await drain(alsoPinned);
      await expect(cache.prefetch(two)).rejects.toMatchObject({ code: "resourceExhausted" });
      pinned.release();
      await cache.prefetch(two);
      expect(cache.held().map((held) => held.source)).toEqual([three, two]);
      alsoPinned.release();
    });
    test("too little shared memory falls back to disk, and says so", async () => {
      const told: string[] = [];
      const cache = makeCache({
        memory: { directory: places().memory, bytesMax: MiB },
        onFallback: (reason) => told.push(reason),
      });
      const lease = cache.load(source());
      const events = await drain(lease);
      await expectRightBytes(events);
      expect(tensorsOf(events)[0]?.path).toContain(places().disk);
      expect(told).toEqual([expect.stringContaining("at most 1048576")]);
      lease.release();
    });
    test("no room anywhere names both places and a remedy", async () => {
      const cache = makeCache({
        memory: { directory: places().memory, bytesMax: MiB },
        disk: { directory: places().disk, bytesMax: MiB },
      });
      const failed = cache.prefetch(source());
      await expect(failed).rejects.toMatchObject({ code: "resourceExhausted", remedy: expect.any(String) });
      expect(segmentNames()).toEqual([]);
    });
    test("a full file system is no room", async () => {
      const cache = makeCache({ reserveBytes: 2 ** 60 });
      await expect(cache.prefetch(source())).rejects.toThrow("bytes free");
    });
  });

  describe("a changing source", () => {
    test("a file replaced during the load is an error, not a mixture", async () => {
      let served = 0;
      handle = (request, response, file) => {
        if (file.endsWith("00002-of-00003.safetensors") && request.method === "GET" && ++served >= 2) {
          return serveFile(request, response, file, `"replaced"`);
        }
        serveFile(request, response, file);
      };
      await expect(makeCache().prefetch(source())).rejects.toMatchObject({ code: "preconditionFailed" });
      expect(segmentNames()).toEqual([]);
    });
    test("held weights are not served for a source that has other objects now", async () => {
      const cache = makeCache();
      await cache.prefetch(source());
      await writeFile(join(repository, "config.json"), "{}");
      const events = await drain(cache.load(source()));
      expect(events[0]).toMatchObject({ cached: false });
      expect(
        events[0]?.kind === "opened" && Buffer.from(events[0].files.get("config.json") ?? []).toString(),
      ).toBe("{}");
      expect(cache.held()).toHaveLength(1);
    });
    test("weights that were given up while their source was asked are loaded again", async () => {
      handle = (request, response, file) => serveFile(request, response, file.replace(/\/(one|two)\//, "/"));
      const [one, two] = [`${source()}one`, `${source()}two`];
      const cache = makeCache({
        memory: { directory: places().memory, bytesMax: 20 * MiB },
        disk: { directory: places().disk, bytesMax: 0 },
      });
      await cache.prefetch(one);
      const asked = Promise.withResolvers<void>();
      const answer = Promise.withResolvers<void>();
      handle = (request, response, file) => {
        const serve = () => serveFile(request, response, file.replace(/\/(one|two)\//, "/"));
        if (!file.includes("/one/")) return serve();
        asked.resolve();
        void answer.promise.then(serve);
      };
      const lease = cache.load(one);
      const events = drain(lease);
      await asked.promise;
      await cache.prefetch(two);
      expect(cache.held()).toMatchObject([{ source: two }]);
      answer.resolve();
      await expectRightBytes(await events);
      expect(cache.held()).toMatchObject([{ source: one, pins: 1 }]);
      lease.release();
    });
    test("held weights are served when the source cannot be asked", async () => {
      const cache = makeCache();
      await cache.prefetch(source());
      handle = (_request, response) => response.writeHead(503).end();
      expect((await drain(cache.load(source())))[0]).toMatchObject({ cached: true });
    });
  });

  describe("faults of the source", () => {
    test("cut connections and 503s are gone over", async () => {
      let broken = 0;
      handle = (request, response, file) => {
        const weights = request.method === "GET" && file.endsWith(".safetensors");
        if (weights && broken++ % 3 === 1) return void response.writeHead(503, { "retry-after": "0" }).end();
        if (weights && broken % 3 === 2) return cutShort(request, response, file);
        serveFile(request, response, file);
      };
      await expectRightBytes(await drain(makeCache().load(source())));
    });
    test("a flipped bit is asked for again; one that stays is refused before any tensor of its block", async () => {
      let flips = 1;
      handle = (request, response, file) => {
        const flip = request.headers.range === "bytes=0-4194303" && file.includes("00001") && flips-- > 0;
        serveFile(request, response, file, undefined, flip ? 100_000 : undefined);
      };
      await expectRightBytes(await drain(makeCache().load(source())));
      flips = 99;
      const { cache } = caches[0] as { cache: WeightCache };
      await writeFile(join(repository, "config.json"), "{ }");
      await expect(cache.prefetch(source())).rejects.toMatchObject({ code: "corrupt" });
      await expect(cache.prefetch(source())).rejects.toThrow(
        /^model-00001-of-00003\.safetensors: block 0 does not match its checksum/,
      );
    });
    test.each([
      [404, "notFound"],
      [403, "permissionDenied"],
      [416, "invalidArgument"],
      [503, "unavailable"],
    ])("status %d is %s", async (status, code) => {
      handle = (request, response, file) => {
        if (file.endsWith(".safetensors") && request.method === "GET")
          return void response.writeHead(status).end();
        serveFile(request, response, file);
      };
      await expect(makeCache().prefetch(source())).rejects.toMatchObject({ code });
    });
    test.each([
      ["stops sending", () => {}],
      ["sends byte by byte", drip],
    ])("a server that %s is given up after the deadline", async (_name, goOn) => {
      handle = (request, response, file) => {
        if (
          !file.endsWith(".safetensors") ||
          request.headers.range?.startsWith("bytes=0-262143") ||
          request.method === "HEAD"
        ) {
          return serveFile(request, response, file);
        }
        response.writeHead(206, headersFor(request, file).headers);
        response.write(Buffer.alloc(10));
        goOn(response);
      };
      const limits = {
        chunkBytes: 4 * MiB,
        requestsInitial: 4,
        requestsMax: 4,
        chunkDeadlineMs: 200,
        chunkAttemptsMax: 2,
        ...QUICK,
      };
      await expect(makeCache({}, { limits }).prefetch(source())).rejects.toMatchObject({
        code: "deadlineExceeded",
      });
      expect(segmentNames()).toEqual([]);
    });
    test.each([
      ["a truncated shard", (path: string) => truncate(path, 1_000_000), "truncated|record says"],
      ["a lying header", (path: string) => overwrite(path, 8, "}"), "header"],
      ["a header length past the end", (path: string) => overwrite(path, 7, "\x7f"), "claims"],
    ])("%s is refused by name before anything is loaded", async (_name, damage, message) => {
      await rm(join(repository, "pilotlight.json"));
      await damage(join(repository, "model-00002-of-00003.safetensors"));
      const failed = makeCache().prefetch(source());
      await expect(failed).rejects.toMatchObject({
        code: "corrupt",
        message: expect.stringMatching(message),
      });
      await expect(failed).rejects.toThrow("model-00002-of-00003.safetensors");
    });
    test("an index that disagrees with its shards is refused", async () => {
      const path = join(repository, "model.safetensors.index.json");
      const text = await readFile(path, "utf8");
      await writeFile(path, text.replace('"model.norm.weight"', '"model.norm.height"'));
      await expect(makeCache().prefetch(source())).rejects.toThrow("shard index");
    });
    test("a folder without weights is notFound", async () => {
      await mkdir(join(folder, "empty"), { recursive: true });
      repository = join(folder, "empty");
      await expect(makeCache().prefetch(source())).rejects.toMatchObject({ code: "notFound" });
    });
  });

  describe("digests", () => {
    const checked: [string, boolean][] = [];
    const digests = {
      afterMs: 0,
      bytesPerSecond: 2 ** 30,
      onChecked: (_source: string, key: string, right: boolean) => void checked.push([key, right]),
    };
    beforeEach(() => void checked.splice(0));

    test("of what was loaded are taken in the background, whole", async () => {
      const cache = makeCache({}, { digests });
      await cache.prefetch(source());
      await expect.poll(() => checked.length).toBe(3);
      expect(checked.every(([, right]) => right)).toBe(true);
      expect(cache.held()).toHaveLength(1);
    });
    test("that are wrong are told, and the weights are given to nobody else", async () => {
      const path = join(repository, "pilotlight.json");
      const record = JSON.parse(await readFile(path, "utf8"));
      const [key] = Object.keys(record.files).filter((name) => name.includes("00002"));
      record.files[key as string].sha256 = "0".repeat(64);
      await writeFile(path, JSON.stringify(record));
      const cache = makeCache({}, { digests });
      const lease = cache.load(source());
      await drain(lease);
      await expect.poll(() => checked).toContainEqual([key, false]);
      const other = cache.load(source());
      expect((await drain(other))[0]).toMatchObject({ cached: false });
      lease.release();
      await expect.poll(() => cache.held().length).toBe(1);
      other.release();
      await expect.poll(() => cache.held()).toEqual([]);
      expect(segmentNames()).toEqual([]);
    });
  });

  describe("letting go", () => {
    test("the last lease of an unfinished flight cancels it and frees everything", async () => {
      const reached = Promise.withResolvers<void>();
      handle = (request, response, file) => {
        if (request.headers.range?.startsWith("bytes=4194304")) return void reached.resolve(); // and never answers
        serveFile(request, response, file);
      };
      const cache = makeCache();
      const [one, two] = [cache.load(source()), cache.load(source())];
      const reading = [drain(one), drain(two)];
      await reached.promise;
      one.release();
      await expect(reading[0]).rejects.toMatchObject({ code: "cancelled" });
      expect(cache.held()).toMatchObject([{ pins: 1 }]);
      two.release();
      two.release();
      await expect(reading[1]).rejects.toMatchObject({ code: "cancelled" });
      await expect.poll(segmentNames).toEqual([]);
      expect(cache.held()).toEqual([]);
      expect(cache.usage().bytesUsed).toBe(0);
    });
    test("one owner at a time, and the next removes what a killed one left", async () => {
      const directory = places().memory;
      makeCache();
      expect(() => makeCache()).toThrow(expect.objectContaining({ code: "alreadyExists" }));
      caches.pop()?.close();
      await writeFile(join(directory, "weights-77"), "left over");
      makeCache();
      expect(existsSync(join(directory, "weights-77"))).toBe(false);
    });
  });
});

const ONE_BY_ONE = {
  chunkBytes: 4 * MiB,
  requestsInitial: 1,
  requestsMax: 1,
  chunkDeadlineMs: 5000,
  chunkAttemptsMax: 3,
  ...QUICK,
};

/** A repository of one file whose 32-bit floats begin off their width, so that ranges end inside them. */
async function writeOddFloats(folder: string): Promise<Float32Array> {
  const values = Float32Array.from({ length: 3_000_000 }, (_, i) => (i % 251) - 125);
  const end = 3 + values.byteLength;
  const header = JSON.stringify({
    pad: { dtype: "U8", shape: [3], data_offsets: [0, 3] },
    floats: { dtype: "F32", shape: [values.length], data_offsets: [3, end] },
    counts: { dtype: "I64", shape: [1], data_offsets: [end, end + 8] },
  });
  const head = Buffer.alloc(8 + Math.ceil(header.length / 8) * 8, " ");
  head.writeBigUInt64LE(BigInt(head.byteLength - 8));
  head.write(header, 8);
  const counts = Buffer.alloc(8);
  counts.writeBigInt64LE(77n);
  await rm(folder, { recursive: true });
  await mkdir(folder);
  await writeFile(join(folder, "config.json"), "{}");
  await writeFile(
    join(folder, "model.safetensors"),
    Buffer.concat([head, Buffer.from([1, 2, 3]), Buffer.from(values.buffer), counts]),
  );
  return values;
}

async function overwrite(path: string, offset: number, text: string): Promise<void> {
  const bytes = await readFile(path);
  bytes.write(text, offset, "latin1");
  await writeFile(path, bytes);
}

function headersFor(request: IncomingMessage, file: string, etag?: string) {
  const bytes = readFileSync(file);
  const match = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  const start = Number(match?.[1] ?? 0);
  const end = Math.min(bytes.byteLength, match?.[2] ? Number(match[2]) + 1 : bytes.byteLength);
  const headers = {
    etag: etag ?? `"${bytes.byteLength}-${bytes.subarray(0, 64).toString("hex")}"`,
    "content-length": String(end - start),
    ...(match ? { "content-range": `bytes ${start}-${end - 1}/${bytes.byteLength}` } : {}),
  };
  return { bytes: Buffer.from(bytes.subarray(start, end)), status: match ? 206 : 200, headers };
}

function serveFile(
  request: IncomingMessage,
  response: ServerResponse,
  file: string,
  etag?: string,
  flipAt?: number,
): void {
  if (!existsSync(file) || file.endsWith("/")) return void response.writeHead(404).end();
  const { bytes, status, headers } = headersFor(request, file, etag);
  if (flipAt !== undefined) bytes[flipAt] = (bytes[flipAt] ?? 0) ^ 1;
  response.writeHead(status, headers).end(request.method === "HEAD" ? undefined : bytes);
}

/** Never silent, never done. */
function drip(response: ServerResponse): void {
  const drops = setInterval(() => response.write(Buffer.alloc(1)), 20);
  response.once("close", () => clearInterval(drops));
}

function cutShort(request: IncomingMessage, response: ServerResponse, file: string): void {
  const { bytes, status, headers } = headersFor(request, file);
  response.writeHead(status, headers);
  response.write(bytes.subarray(0, bytes.byteLength / 2), () => response.destroy());
}
