// Reads are asynchronous throughout: the bucket's server runs in this process and must go on answering.
// What readers of a mounted image see when things go wrong: the right bytes, late perhaps, or EIO. Never anything else.
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Imagefs, type Mount, openImagefs } from "@pilotlight/imagefs";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { hostPlatform, writeOciLayout } from "@pilotlight/oci";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type ConvertedImage, convertImage } from "./index.ts";
import { type BucketServer, type Fault, startBucketServer } from "./testing/bucket-server.ts";
import { processes } from "./testing/processes.ts";

const scratch = mkdtempSync(join(tmpdir(), "faults-"));
/** Small chunks: many requests, many chances for things to go wrong. */
const CHUNK_BYTES = 64 << 10;
const BIG_BYTES = 12_345_678;
/** Every byte differs from its neighbours' zeros: a hole would show. */
const CONTENT = Buffer.alloc(
  BIG_BYTES,
  (() => Buffer.from(Array.from({ length: 65_521 }, (_, i) => (i * 31 + (i >> 8)) % 255 || 1)))(),
);

let image: ConvertedImage;
let server: BucketServer;
let bucket: ObjectStore;

beforeAll(async () => {
  const layout = await writeOciLayout({
    directory: join(scratch, "layout"),
    tag: "big",
    platform: hostPlatform(),
    layers: [
      [
        { to: "/big", content: CONTENT },
        { to: "/small", content: "small file" },
      ],
    ],
    run: {},
  });
  mkdirSync(join(scratch, "bucket"));
  const files = await openStore(`file://${join(scratch, "bucket")}`);
  image = await convertImage({
    source: layout.reference,
    bucket: files,
    limits: { chunkBytes: CHUNK_BYTES },
  });
  await files.close();
  server = await startBucketServer(join(scratch, "bucket"));
  bucket = await openStore(server.url);
});

afterAll(async () => {
  await bucket?.close();
  await server?.close();
  rmSync(scratch, { recursive: true, force: true });
});

const probe = await openImagefs({ cacheDir: join(scratch, "probe") }).probe();

describe.each<{ method: "fanotify" | "fuse"; blockDevices: boolean }>([
  { method: "fanotify", blockDevices: false },
  { method: "fuse", blockDevices: false },
  { method: "fuse", blockDevices: true },
])("a mount by $method, block devices: $blockDevices", ({ method, blockDevices }) => {
  const ability = probe[method];
  const name = `${method}${blockDevices ? "-loop" : ""}`;
  let imagefs: Imagefs;
  let mount: Mount;
  let number = 0;

  beforeEach(async ({ skip, task }) => {
    if (!ability.ok) skip(`${method}: ${ability.why}`);
    Object.assign(server, { fault: "none", faultsLeft: Number.POSITIVE_INFINITY });
    number++;
    imagefs = openImagefs({
      cacheDir: join(scratch, `cache-${name}-${number}`),
      // Long, for a loaded machine must not look like a fault; short where the deadline itself is the point.
      times: { readDeadlineMs: task.name.includes("that stays") ? 1_500 : 30_000 },
      blockDevices,
    });
    mount = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: join(scratch, `root-${name}-${number}`),
      method,
      fill: false,
    });
  });

  afterEach(async () => {
    await imagefs?.stop();
    const left = readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.includes(scratch))
      .filter((line) => line.includes(`-${name}-${number} `) || line.includes(`-${name}-${number}/`));
    expect(left).toEqual([]);
    // The keeper ends last, when it has seen its handler end.
    const cache = join(scratch, `cache-${name}-${number}`);
    await eventually(() => (processes(cache).length > 0 ? undefined : true));
  });

  /** On a loaded machine some requests are slow enough to be sent twice. */
  const hedgedBytes = async () => ((await imagefs.stats())?.hedges ?? 0) * CHUNK_BYTES;

  test("an unharmed bucket delivers the content, each chunk once", async () => {
    const before = server.packBytes;
    expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
    expect(server.packBytes - before).toBeLessThanOrEqual(image.sizes.wireBytes + (await hedgedBytes()));
    server.fault = "status404";
    expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
  });

  test.each<[Fault, number]>([
    ["status500", 3],
    ["cut", 3],
    ["flippedBits", 1],
    ["slow", 5],
    ["stall", 3],
    ["status403", 2],
  ])("%s that passes is survived", async (fault, times) => {
    Object.assign(server, { fault, faultsLeft: times });
    expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
  });

  test.each<Fault>(["status500", "status404", "flippedBits", "stall", "cut"])(
    "%s that stays is EIO, and the next read works again",
    async (fault) => {
      server.fault = fault;
      await expect(readFile(join(mount.root, "big"))).rejects.toMatchObject({ code: "EIO" });
      expect((await imagefs.stats())?.images[0]?.failedReads).toBeGreaterThan(0);
      server.fault = "none";
      expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
    },
  );

  test("a handler killed again and again while a file is read is not noticed", async () => {
    server.fault = "slow";
    const reading = readFile(join(mount.root, "big"));
    let done = false;
    void reading.finally(() => {
      done = true;
    });
    for (let kills = 0; kills < 4; kills++) {
      await sleep(300);
      const handler = processes(imagefs.cacheDir, "handler")[0];
      if (handler !== undefined) process.kill(handler, "SIGKILL");
    }
    expect(done).toBe(false);
    server.fault = "none";
    expect((await reading).equals(CONTENT)).toBe(true);
  });

  test("a killed keeper is replaced, and the handler after it still works", async () => {
    const [keeper] = processes(imagefs.cacheDir, "serve");
    process.kill(keeper as number, "SIGKILL");
    // It has taken over when it holds the blob.
    await eventually(() =>
      processes(imagefs.cacheDir, "keeper").find((pid) =>
        openFiles(pid).some((path) => path.endsWith("data.blob")),
      ),
    );
    process.kill(processes(imagefs.cacheDir, "handler")[0] as number, "SIGKILL");
    expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
  });

  test("mapped pages that cannot be had are SIGBUS, not zeros", async () => {
    server.fault = "status404";
    const program = `import mmap\nwith open(${JSON.stringify(join(mount.root, "big"))}, "rb") as f:\n  m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n  print(m[5_000_000])`;
    const child: ChildProcess = spawn("python3", ["-c", program], { stdio: "pipe" });
    const [code, signal] = await new Promise<[number | null, string | null]>((resolve) =>
      child.once("exit", (c, s) => resolve([c, s])),
    );
    // An mmap that raises its event for the whole range at once fails already there.
    expect(signal === "SIGBUS" || code === 1, `exit ${code} ${signal}`).toBe(true);
  });

  async function crash(): Promise<void> {
    // Stopped first: otherwise the one that is killed last replaces the other in between.
    const both = [...processes(imagefs.cacheDir, "serve"), ...processes(imagefs.cacheDir, "handler")];
    for (const signal of ["SIGSTOP", "SIGKILL"] as const) for (const pid of both) process.kill(pid, signal);
    await eventually(() => (processes(imagefs.cacheDir, "handler").length === 0 ? true : undefined));
  }

  test("what a crash of both processes left behind is cleaned up by the next start", async () => {
    const file = await open(join(mount.root, "small"));
    await crash();
    await imagefs.close();
    imagefs = openImagefs({ cacheDir: imagefs.cacheDir, blockDevices });
    mount = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: mount.root,
      method,
      fill: false,
    });
    expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
    await file.close();
  });

  test("a start waits until killed processes have let go of the cache", async () => {
    await imagefs.stop();
    const lock = join(imagefs.cacheDir, "lock");
    const dying = spawn("flock", [lock, "sleep", "1"], { stdio: "ignore" });
    await eventually(() => (openFiles(dying.pid as number).includes(lock) ? true : undefined));
    imagefs = openImagefs({ cacheDir: imagefs.cacheDir, blockDevices });
    mount = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: mount.root,
      method,
      fill: false,
    });
    expect(await readFile(join(mount.root, "small"), "utf8")).toBe("small file");
  });

  test("what a crash of both processes left behind is taken away by stop", async () => {
    await crash();
    await imagefs.stop();
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(`${mount.root} `);
  });

  test("the cache is used again after a clean end", async () => {
    await readFile(join(mount.root, "big"));
    await imagefs.stop();
    const before = server.packRequests;
    imagefs = openImagefs({ cacheDir: imagefs.cacheDir, blockDevices });
    mount = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: mount.root,
      method,
      fill: false,
    });
    expect((await readFile(join(mount.root, "big"))).equals(CONTENT)).toBe(true);
    expect(server.packRequests).toBe(before);
  });

  test("twenty mounts of one image read the bucket once", async () => {
    const before = server.packBytes;
    const roots = [mount.root];
    for (let i = 0; i < 19; i++) {
      const more = await imagefs.mount({
        bucket,
        manifestDigest: image.manifestDigest,
        mountpoint: join(scratch, `more-${name}-${i}`),
        method,
        fill: false,
      });
      roots.push(more.root);
    }
    const contents = await Promise.all(roots.map((root) => readFile(join(root, "big"))));
    expect(contents.every((content) => content.equals(CONTENT))).toBe(true);
    expect(server.packBytes - before).toBeLessThanOrEqual(
      image.sizes.wireBytes * 1.01 + (await hedgedBytes()),
    );
  });

  test("a writable layer takes changes and leaves the image alone", async () => {
    const writableDir = join(scratch, `writable-${name}`);
    const writable = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: join(scratch, `rw-${name}`),
      method,
      writableDir,
      fill: false,
    });
    const file = await open(join(writable.root, "small"), "w");
    await file.write("changed");
    await file.close();
    expect(await readFile(join(writable.root, "small"), "utf8")).toBe("changed");
    expect(await readFile(join(mount.root, "small"), "utf8")).toBe("small file");
  });

  test("the rest arrives in the background, and then the kernel asks no more", async () => {
    const filling = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: join(scratch, `fill-${name}`),
      method,
    });
    const stats = await eventually(async () => {
      const found = (await imagefs.stats())?.images[0];
      return found !== undefined && found.presentBytes >= found.dataBytes && !found.watched
        ? found
        : undefined;
    });
    expect(stats.failedReads).toBe(0);
    server.fault = "status500";
    expect((await readFile(join(filling.root, "big"))).equals(CONTENT)).toBe(true);
  });
});

function openFiles(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  } catch {
    return [];
  }
}

async function eventually<T>(look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  while (true) {
    const found = await look();
    if (found !== undefined) return found;
    await sleep(20);
  }
}
