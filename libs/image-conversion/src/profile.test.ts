// A start teaches the next one: recorded, stored in the bucket, read back as one stream by another node.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { entryName, type Imagefs, launch, type Mount, openImagefs } from "@pilotlight/imagefs";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type ConvertedImage, convertImage } from "./index.ts";
import { nodeBinary, writeNodeImage } from "./testing/demo-image.ts";

const scratch = mkdtempSync(join(tmpdir(), "profile-"));
const probe = await openImagefs({ cacheDir: join(scratch, "probe") }).probe();
const method = probe.fanotify.ok ? ("fanotify" as const) : ("fuse" as const);
let bucket: ObjectStore;
let image: ConvertedImage;
let number = 0;
const opened: Imagefs[] = [];

beforeAll(async () => {
  const layout = await writeNodeImage(join(scratch, "layout"), [
    { to: "/app/main.mjs", content: "process.exitCode = 0;" },
  ]);
  mkdirSync(join(scratch, "bucket"));
  bucket = await openStore(`file://${join(scratch, "bucket")}`);
  image = await convertImage({ source: layout.reference, bucket });
});
afterEach(async () => {
  for (const imagefs of opened.splice(0)) await imagefs.stop();
});
afterAll(async () => {
  await bucket?.close();
  rmSync(scratch, { recursive: true, force: true });
});

/** A node with an empty cache mounts the image; `work` is what runs there. */
async function onFreshNode<T>(work: (mount: Mount, imagefs: Imagefs) => Promise<T>): Promise<T> {
  number++;
  const imagefs = openImagefs({ cacheDir: join(scratch, `cache-${number}`) });
  opened.push(imagefs);
  const mount = await imagefs.mount({
    bucket,
    manifestDigest: image.manifestDigest,
    mountpoint: join(scratch, `root-${number}`),
    method,
    fill: false,
  });
  return work(mount, imagefs);
}

async function run(imagefs: Imagefs, mount: Mount): Promise<void> {
  const { process: program } = await launch(imagefs, mount, { stdio: ["ignore", "inherit", "inherit"] });
  expect(await new Promise((resolve) => program.once("exit", resolve))).toBe(0);
}

const hotPackPath = () =>
  join(
    scratch,
    "bucket/hot",
    image.manifestDigest.slice(7),
    entryName(["node", "/app/main.mjs", "from", "cmd"]),
  );

describe.runIf(probe[method].ok)("a profile", () => {
  test("spares the next start its requests and most of its bytes", async () => {
    const first = await onFreshNode(async (mount, imagefs) => {
      await run(imagefs, mount);
      const recorded = await mount.recordStart();
      expect(recorded).toMatchObject({ starts: 1 });
      expect(recorded?.hotPackBytes).toBeGreaterThan(100_000);
      return imagefs.stats();
    });
    const second = await onFreshNode(async (mount, imagefs) => {
      await run(imagefs, mount);
      // The same pages again: nothing new to learn, so the pack stays.
      expect(await mount.recordStart()).toMatchObject({ starts: 2, hotPackBytes: undefined });
      return imagefs.stats();
    });
    expect(first?.requests).toBeGreaterThan(20);
    expect(second?.requests).toBeLessThan(first!.requests / 4);
    expect(second!.images[0]!.fetchedBytes).toBeLessThan(first!.images[0]!.fetchedBytes);
  });

  test("that is damaged costs time only", async () => {
    const good = readFileSync(hotPackPath());
    const damages = [
      Buffer.from("rubbish"),
      Buffer.from(good).fill(0xee, good.length >> 1),
      good.subarray(0, good.length >> 1),
      Buffer.from(good).fill(0, 20, 24),
      Buffer.from(good).fill(0x7f, 64 + 32, 64 + 40),
    ];
    for (const damaged of damages) {
      writeFileSync(hotPackPath(), damaged);
      await onFreshNode(async (mount, imagefs) => {
        await run(imagefs, mount);
        expect((await readFile(join(mount.root, "usr/bin/node"))).equals(readFileSync(nodeBinary()))).toBe(
          true,
        );
      });
    }
    writeFileSync(hotPackPath(), good);
  });
});
