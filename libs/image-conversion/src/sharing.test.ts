// Several nodes on one machine, each with processes and a cache of its own, that start one image and share it.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Imagefs, type Mount, openImagefs } from "@pilotlight/imagefs";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { hostPlatform, writeOciLayout } from "@pilotlight/oci";
import { joinPeers, type Peers, type PeersPorts } from "@pilotlight/peers";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type ConvertedImage, convertImage } from "./index.ts";
import { type BucketServer, startBucketServer } from "./testing/bucket-server.ts";

const scratch = mkdtempSync(join(tmpdir(), "sharing-"));
const CHUNK_BYTES = 256 << 10;
const CONTENT = Buffer.alloc(
  24_345_678,
  Buffer.from(Array.from({ length: 65_521 }, (_, i) => (i * 31 + (i >> 8) * 7) % 255 || 1)),
);
// Every chunk differs, and compresses little.
for (let at = 0; at + 8 < CONTENT.length; at += 64)
  CONTENT.writeUInt32LE(Math.imul(at, 2_654_435_761) >>> 0, at);
const TOKEN = "of the zone";

const probe = await openImagefs({ cacheDir: join(scratch, "probe") }).probe();
const method = probe.fanotify.ok ? ("fanotify" as const) : ("fuse" as const);
let image: ConvertedImage;
let server: BucketServer;
let bucket: ObjectStore;
let number = 0;
const nodes: Imagefs[] = [];

beforeAll(async () => {
  const layout = await writeOciLayout({
    directory: join(scratch, "layout"),
    tag: "big",
    platform: hostPlatform(),
    layers: [[{ to: "/big", content: CONTENT }]],
    run: { cmd: ["/big"] },
  });
  mkdirSync(join(scratch, "bucket"));
  const files = openStore(`file://${join(scratch, "bucket")}`);
  image = await convertImage({
    source: layout.reference,
    bucket: files,
    limits: { chunkBytes: CHUNK_BYTES },
  });
  await files.close();
  server = await startBucketServer(join(scratch, "bucket"));
  bucket = openStore(server.url);
});

afterEach(async () => {
  for (const imagefs of nodes.splice(0)) await imagefs.stop();
  Object.assign(server, { fault: "none" });
});

afterAll(async () => {
  await bucket?.close();
  await server?.close();
  rmSync(scratch, { recursive: true, force: true });
});

/** The way between nodes. */
function zone(): PeersPorts {
  const listeners = new Set<Parameters<PeersPorts["listen"]>[0]>();
  return {
    say: (what) => {
      for (const listener of listeners) listener(what);
    },
    listen: (listener) => {
      listeners.add(listener);
      return {
        close: async () => {
          listeners.delete(listener);
        },
      };
    },
  };
}

type Shared = { imagefs: Imagefs; mounted: (options?: { fill?: boolean }) => Promise<Mount>; peers: Peers };

async function node(way: PeersPorts, options: { token?: string; url?: string } = {}): Promise<Shared> {
  const nodeId = `node-${++number}`;
  const imagefs = openImagefs({ cacheDir: join(scratch, nodeId) });
  nodes.push(imagefs);
  let peers: Peers | undefined;
  await imagefs.share({
    nodeId,
    host: "127.0.0.1",
    port: 0,
    token: options.token ?? TOKEN,
    uploadBytesPerSecond: 0,
    join: (port, onChange) => {
      peers = joinPeers(way, {
        nodeId,
        zone: "z",
        url: options.url ?? `http://127.0.0.1:${port}`,
        onChange,
      });
      return peers;
    },
  });
  const { manifestDigest } = image;
  const mountpoint = join(scratch, `root-${nodeId}`);
  return {
    imagefs,
    peers: peers as Peers,
    mounted: ({ fill = false } = {}) =>
      imagefs.mount({ bucket, manifestDigest, mountpoint, method, fill, entry: null }),
  };
}

const contentOf = (mount: Mount) => readFile(join(mount.root, "big"));
const key = () => image.manifestDigest.slice("sha256:".length);

async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20));
}

describe.runIf(probe[method].ok)("nodes of a zone", { timeout: 120_000 }, () => {
  test("read an image from the bucket about once, however many start it together", async () => {
    const way = zone();
    const all = await Promise.all(Array.from({ length: 4 }, () => node(way)));
    const before = server.packBytes;
    const mounts = await Promise.all(all.map(({ mounted }) => mounted()));
    const contents = await Promise.all(mounts.map(contentOf));
    for (const content of contents) expect(content.equals(CONTENT)).toBe(true);
    const stats = await Promise.all(all.map(({ imagefs }) => imagefs.stats()));
    // Without sharing it would be four times; the rest is room for requests that were slow enough to be hedged.
    expect(server.packBytes - before).toBeLessThan(2 * image.sizes.wireBytes);
    expect(stats.map((s) => s?.images[0]?.failedReads)).toEqual([0, 0, 0, 0]);
    expect(stats.reduce((sum, s) => sum + (s?.peers.uploadedBytes ?? 0), 0)).toBeGreaterThan(
      image.sizes.wireBytes,
    );
  });

  test("a node that has everything serves the others without the bucket", async () => {
    const way = zone();
    const [first, second] = [await node(way), await node(way)];
    await first.mounted({ fill: true });
    await until(async () => second.peers.peers(key())[0]?.complete === true);
    server.fault = "status500";
    expect((await contentOf(await second.mounted())).equals(CONTENT)).toBe(true);
    expect((await second.imagefs.stats())?.images[0]?.fetchedBytes).toBe(0);
  });

  test("a node with another token gets nothing, and starts from the bucket", async () => {
    const way = zone();
    const [first, stranger] = [await node(way), await node(way, { token: "guessed" })];
    await first.mounted({ fill: true });
    await until(async () => stranger.peers.peers(key())[0]?.complete === true);
    expect((await contentOf(await stranger.mounted())).equals(CONTENT)).toBe(true);
    expect((await first.imagefs.stats())?.peers.uploadedBytes).toBe(0);
    expect((await stranger.imagefs.stats())?.images[0]?.peerBytes).toBe(0);
  });

  test.each<[string, (server: Server) => void]>([
    [
      "lies about everything",
      (liar) =>
        liar.on("request", (request, response) => {
          request.resume();
          const part = Buffer.alloc(5 + 1024, 7);
          part.writeUInt32LE(1024, 0);
          part[4] = 0;
          response.end(part);
        }),
    ],
    ["never answers", (silent) => silent.on("request", () => undefined)],
    [
      "claims lengths beyond all memory",
      (liar) =>
        liar.on("request", (request, response) => {
          request.resume();
          response.end(Buffer.alloc(64, 0xff));
        }),
    ],
    ["hangs up", (rude) => rude.on("request", (request) => request.socket.destroy())],
  ])("a peer that %s does no harm", async (_, behave) => {
    const way = zone();
    const peer = createServer();
    behave(peer);
    await new Promise<void>((resolve) => peer.listen(0, "127.0.0.1", resolve));
    try {
      const url = `http://127.0.0.1:${(peer.address() as AddressInfo).port}`;
      const victim = await node(way);
      const say = () => way.say({ nodeId: "hostile", zone: "z", key: key(), url, held: "complete" });
      const saying = setInterval(say, 50);
      say();
      const mount = await victim.mounted();
      expect((await contentOf(mount)).equals(CONTENT)).toBe(true);
      clearInterval(saying);
      const stats = await victim.imagefs.stats();
      expect(stats?.images[0]).toMatchObject({ failedReads: 0, peerBytes: 0 });
      expect(stats?.peers.asked).toBeGreaterThan(0);
    } finally {
      peer.closeAllConnections();
      await new Promise((resolve) => peer.close(resolve));
    }
  });

  test("a peer that is killed in the middle is done without", async () => {
    const way = zone();
    const [first, second] = [await node(way), await node(way)];
    await first.mounted({ fill: true });
    await until(async () => second.peers.peers(key())[0]?.complete === true);
    const mount = await second.mounted();
    const reading = contentOf(mount);
    await first.imagefs.stop();
    expect((await reading).equals(CONTENT)).toBe(true);
  });

  test("among nodes that start an image together one acts for all", async () => {
    const way = zone();
    const all = await Promise.all(Array.from({ length: 3 }, () => node(way)));
    const turns = await Promise.all(
      all.map(({ imagefs }) => imagefs.takeTurn(image.manifestDigest, new AbortController().signal)),
    );
    expect(turns.filter(({ mine }) => mine)).toHaveLength(1);
    for (const turn of turns) turn.end();
  });
});
