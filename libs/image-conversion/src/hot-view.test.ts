// An image that is mounted with its hot pack: what the pack brought is read without a question, everything else as ever, and
// what programs see is the image, whichever way its pages come.
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compareTrees, entryName, type Imagefs, type Mount, openImagefs } from "@pilotlight/imagefs";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { hostPlatform, writeOciLayout } from "@pilotlight/oci";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type ConvertedImage, convertImage } from "./index.ts";
import { processes } from "./testing/processes.ts";

const CHUNK_BYTES = 64 << 10;
const BIG_BYTES = 8 << 20;
const SMALL_FILES = 200;
const ENTRY = entryName(["/start"]);
/** What a start reads of the big file: scattered, of chunks that are cold otherwise, and over a chunk's border. */
const HOT_PARTS = [
  [0, 20_000],
  [1_000_003, 4096],
  [3 * CHUNK_BYTES - 5000, 9000],
  [BIG_BYTES - 700, 700],
] as const;

const scratch = mkdtempSync(join(tmpdir(), "hot-view-"));
const probe = await openImagefs({ cacheDir: join(scratch, "probe") }).probe();
/** No byte is zero: a hole would show. */
const CONTENT = Buffer.from(Array.from({ length: BIG_BYTES }, (_, i) => ((i * 7919 + (i >> 12)) % 255) + 1));
let bucket: ObjectStore;
let image: ConvertedImage;
let number = 0;
const opened: Imagefs[] = [];

beforeAll(async () => {
  const tree = join(scratch, "tree");
  mkdirSync(join(tree, "small/deeper"), { recursive: true });
  for (let i = 0; i < SMALL_FILES; i++)
    writeFileSync(join(tree, i % 3 === 0 ? "small" : "small/deeper", `file-${i}`), smallContent(i));
  writeFileSync(join(tree, "big"), CONTENT);
  linkSync(join(tree, "big"), join(tree, "small/also-big"));
  const layout = await writeOciLayout({
    directory: join(scratch, "layout"),
    tag: "hot",
    platform: hostPlatform(),
    layers: [
      [
        { from: tree, to: "/data" },
        { to: "/link", symlink: "data/big" },
      ],
    ],
    run: { entrypoint: ["/start"] },
  });
  mkdirSync(join(scratch, "bucket"));
  bucket = await openStore(`file://${join(scratch, "bucket")}`);
  image = await convertImage({ source: layout.reference, bucket, limits: { chunkBytes: CHUNK_BYTES } });
});
afterEach(async () => {
  for (const imagefs of opened.splice(0)) await imagefs.stop();
});
afterAll(async () => {
  await bucket?.close();
  rmSync(scratch, { recursive: true, force: true });
});

function smallContent(i: number): string {
  return `${i} `.repeat(1 + ((i * 37) % 3000));
}

async function onFreshNode(): Promise<{ imagefs: Imagefs; mount: Mount }> {
  number++;
  const imagefs = openImagefs({ cacheDir: join(scratch, `cache-${number}`) });
  opened.push(imagefs);
  const mount = await imagefs.mount({
    bucket,
    manifestDigest: image.manifestDigest,
    mountpoint: join(scratch, `root-${number}`),
    method: "fanotify",
    entry: ENTRY,
    fill: false,
  });
  return { imagefs, mount };
}

/** What every start of this image does. */
async function start(mount: Mount): Promise<void> {
  const big = await open(join(mount.root, "data/big"));
  for (const [offset, length] of HOT_PARTS) {
    const { buffer } = await big.read(Buffer.alloc(length), 0, length, offset);
    expect(buffer.equals(CONTENT.subarray(offset, offset + length))).toBe(true);
  }
  await big.close();
  for (let i = 0; i < SMALL_FILES; i += 6)
    expect(await readFile(join(mount.root, `data/small/file-${i}`), "utf8")).toBe(smallContent(i));
}

async function readEvents(imagefs: Imagefs): Promise<number> {
  return (await imagefs.stats())?.images[0]?.readEvents ?? Number.NaN;
}

/** A node on which everything has come that the pack holds. */
async function onHotNode(): Promise<{ imagefs: Imagefs; mount: Mount }> {
  const node = await onFreshNode();
  await expect
    .poll(async () => (await node.imagefs.stats())?.images[0]?.presentBytes)
    .toBeGreaterThanOrEqual(packedBytes);
  return node;
}

let packedBytes = 0;

describe.runIf(probe.fanotify.ok)("an image with a hot pack", () => {
  beforeAll(async () => {
    const { imagefs, mount } = await onFreshNode();
    await start(mount);
    expect(await readEvents(imagefs)).toBeGreaterThan(SMALL_FILES / 12);
    const recorded = await mount.recordStart();
    packedBytes = recorded?.hotBytes ?? 0;
    expect(packedBytes).toBeGreaterThan(100_000);
  });

  test("is read without a question where the pack has been, and with one elsewhere", async () => {
    const { imagefs, mount } = await onHotNode();
    await start(mount);
    expect(await readEvents(imagefs)).toBe(0);
    expect((await readFile(join(mount.root, "data/big"))).equals(CONTENT)).toBe(true);
    expect((await readFile(join(mount.root, "data/small/also-big"))).equals(CONTENT)).toBe(true);
    expect(await readEvents(imagefs)).toBeGreaterThan(0);
  });

  test("is the same tree", async () => {
    const { imagefs, mount } = await onHotNode();
    const plain = openImagefs({ cacheDir: join(scratch, "plain") });
    const { root } = await plain.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: "/unused",
      method: "extract",
    });
    const { files, differences } = await compareTrees(imagefs, mount.root, root);
    expect(differences).toEqual([]);
    expect(files).toBeGreaterThan(SMALL_FILES);
    // Complete now: nobody is asked any more, and nobody forgets to say so.
    await mount.fill();
    await expect
      .poll(async () => (await imagefs.stats())?.images[0])
      .toMatchObject({ watched: false, failedReads: 0 });
  });

  test("keeps its pack: what was read without a question counts as read", async () => {
    const { mount } = await onHotNode();
    await start(mount);
    expect(await mount.recordStart()).toMatchObject({ hotPackBytes: undefined });
  });

  test("outlives its handler, before the pack has come and after", async () => {
    const { imagefs, mount } = await onFreshNode();
    for (let kills = 0; kills < 3; kills++) {
      for (const pid of processes(imagefs.cacheDir, "handler")) process.kill(pid, "SIGKILL");
      await start(mount);
    }
    expect((await readFile(join(mount.root, "data/big"))).equals(CONTENT)).toBe(true);
    await mount.fill();
    await expect.poll(async () => (await imagefs.stats())?.images[0]).toMatchObject({ watched: false });
  });

  test("goes on being right for who has a file open when it is unmounted", async () => {
    const { imagefs, mount } = await onHotNode();
    const big = await open(join(mount.root, "data/big"));
    await mount.unmount();
    expect((await imagefs.stats())?.images[0]).toMatchObject({ mounts: 0 });
    const { buffer } = await big.read(Buffer.alloc(BIG_BYTES), 0, BIG_BYTES, 0);
    expect(buffer.equals(CONTENT)).toBe(true);
    await big.close();
    const again = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      mountpoint: mount.root,
      method: "fanotify",
      entry: ENTRY,
      fill: false,
    });
    await start(again);
  });
});
