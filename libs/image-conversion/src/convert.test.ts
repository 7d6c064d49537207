import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { metadataImage, parseImageFile, readErofs } from "@pilotlight/image-format";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { hostPlatform, type LayerSource, type TarItem, writeOciLayout, writeTar } from "@pilotlight/oci";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { type ConvertedImage, type ConvertProgress, type ConvertRequest, convertImage } from "./index.ts";

const scratch = mkdtempSync(join(tmpdir(), "convert-"));
const CHUNK_BYTES = 64 << 10;
let bucketPath = "";
let bucket: ObjectStore;
let number = 0;

beforeEach(async () => {
  bucketPath = join(scratch, `bucket-${++number}`);
  bucket = await emptyBucket(bucketPath);
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function emptyBucket(path: string): Promise<ObjectStore> {
  mkdirSync(path);
  return openStore(`file://${path}`);
}

/** Bytes that do not compress, the same for the same seed. */
function noise(seed: string, bytes: number): Buffer {
  const blocks = Array.from({ length: Math.ceil(bytes / 32) }, (_, i) =>
    createHash("sha256").update(`${seed}${i}`).digest(),
  );
  return Buffer.concat(blocks).subarray(0, bytes);
}

function appFiles(count: number, changed: number[] = []): LayerSource[] {
  return Array.from({ length: count }, (_, i) => ({
    to: `/app/node_modules/package-${i % 53}/file-${i}.js`,
    content: noise(`file ${i}${changed.includes(i) ? " changed" : ""}`, 300 + ((i * 7919) % 20_000)),
  }));
}

async function layout(layers: LayerSource[][]): Promise<string> {
  const { reference } = await writeOciLayout({
    directory: join(scratch, `layout-${++number}`),
    tag: "t",
    platform: hostPlatform(),
    layers,
    run: {},
  });
  return reference;
}

function convert(source: string, extra: Partial<ConvertRequest> = {}): Promise<ConvertedImage> {
  return convertImage({ source, bucket, limits: { chunkBytes: CHUNK_BYTES, packBytes: 1 << 20 }, ...extra });
}

function objects(path: string): Map<string, string> {
  const files = readdirSync(path, { recursive: true, withFileTypes: true }).filter(
    (entry) => entry.isFile() && !entry.parentPath.includes(".pilotlight"),
  );
  return new Map(
    files.map((entry) => {
      const file = join(entry.parentPath, entry.name);
      return [file.slice(path.length), createHash("sha256").update(readFileSync(file)).digest("hex")];
    }),
  );
}

const LAYERS = [
  [{ to: "/base", content: noise("base", 3_000_000) }],
  appFiles(400),
  [{ to: "/zeros", content: Buffer.alloc(1_000_000) }],
];

describe("a conversion", () => {
  test("gives the same objects for the same image, and the image's tree", async () => {
    const source = await layout(LAYERS);
    const first = await convert(source);
    const again = join(scratch, `again-${number}`);
    const second = await convertImage({
      source,
      bucket: await emptyBucket(again),
      limits: { chunkBytes: CHUNK_BYTES, packBytes: 1 << 20, layersInFlightMax: 1, chunksInFlightMax: 1 },
    });
    expect(second).toMatchObject({ imageId: first.imageId, sizes: first.sizes });
    expect(objects(again)).toEqual(objects(bucketPath));
    const file = parseImageFile(readFileSync(join(bucketPath, "images", first.manifestDigest.slice(7))));
    const entries = [...readErofs(metadataImage(file))];
    expect(entries.filter(({ kind }) => kind === "file")).toHaveLength(402);
    expect(first.sizes).toMatchObject({ files: 402 });
    // A million zeros take no room.
    expect(first.sizes.wireBytes).toBeLessThan(first.sizes.dataBytes - 900_000);
  });

  test("done twice is done once, also at the same time", async () => {
    const source = await layout(LAYERS);
    const both = await Promise.all([convert(source), convert(source)]);
    expect(both[0].imageId).toBe(both[1].imageId);
    expect(both.filter(({ alreadyConverted }) => !alreadyConverted)).toHaveLength(1);
    expect(await convert(source)).toMatchObject({
      alreadyConverted: true,
      uploadedBytes: 0,
      imageId: both[0].imageId,
    });
  });

  test("that was cut off goes on after its last finished layer", async () => {
    const source = await layout([...LAYERS, [{ to: "/last", content: noise("last", 2_000_000) }]]);
    const stop = new AbortController();
    const cut = convert(source, {
      signal: stop.signal,
      limits: { chunkBytes: CHUNK_BYTES, packBytes: 1 << 20, layersInFlightMax: 1 },
      onProgress: ({ layersDone }) => layersDone === 2 && stop.abort(),
    });
    await expect(cut).rejects.toMatchObject({ code: "cancelled" });
    const finished = readdirSync(join(bucketPath, "layers"), { recursive: true }).length;
    expect(finished).toBeGreaterThanOrEqual(2);
    const reports: ConvertProgress[] = [];
    const image = await convert(source, { onProgress: (progress) => reports.push(progress) });
    expect(
      reports.find(({ phase, layersTotal }) => phase === "layers" && layersTotal > 0)?.layersDone,
    ).toBeGreaterThanOrEqual(1);
    const fresh = await convertImage({
      source,
      bucket: await emptyBucket(join(scratch, `fresh-${number}`)),
      limits: { chunkBytes: CHUNK_BYTES, packBytes: 1 << 20 },
    });
    expect(image.imageId).toBe(fresh.imageId);
  });

  test("of a version that changes one percent uploads little more than that", async () => {
    const base: LayerSource[] = [{ to: "/lib", content: noise("lib", 4_000_000) }];
    const first = await convert(await layout([base, appFiles(1000)]));
    const second = await convert(
      await layout([base, appFiles(1000, [10, 200, 333, 470, 600, 711, 801, 850, 900, 999])]),
    );
    expect(second.imageId).not.toBe(first.imageId);
    expect(second.uploadedBytes / first.uploadedBytes).toBeLessThan(0.1);
    expect(second.reusedBytes).toBeGreaterThan(first.sizes.dataBytes * 0.5);
  });

  test("reports progress that ends at its total", async () => {
    const reports: ConvertProgress[] = [];
    let now = 0;
    await convert(await layout(LAYERS), {
      onProgress: (progress) => reports.push({ ...progress }),
      now: () => (now += 100),
    });
    expect(reports.map(({ phase }) => phase).filter((phase, i, all) => phase !== all[i - 1])).toEqual([
      "resolving",
      "layers",
      "assembling",
      "done",
    ]);
    const last = reports.at(-1)!;
    expect(last).toMatchObject({ layersDone: 3, layersTotal: 3, doneBytes: last.totalBytes });
    expect(
      reports.some(({ bytesPerSecond, remainingMs }) => bytesPerSecond > 0 && remainingMs !== undefined),
    ).toBe(true);
  });

  test("takes layers of every compression", async () => {
    const tar = await archive([
      { kind: "file", path: "f", mode: 0o644, size: 3, content: () => once("abc") },
    ]);
    const images = await Promise.all(
      [
        tar,
        gzipSync(tar),
        zstdCompressSync(tar),
        Buffer.concat([zstdCompressSync(tar.subarray(0, 700)), zstdCompressSync(tar.subarray(700))]),
      ].map((layer, i) => convert(rawLayout([[layer, tar]], `c${i}`))),
    );
    expect(new Set(images.map(({ sizes }) => JSON.stringify(sizes))).size).toBe(1);
  });

  test("of an image without layers or content is an image", async () => {
    expect((await convert(await layout([]))).sizes).toMatchObject({
      contentBytes: 0,
      dataBytes: 0,
      files: 0,
    });
    expect((await convert(await layout([[{ to: "/empty", content: "" }]]))).sizes).toMatchObject({
      files: 1,
      dataBytes: 0,
    });
  });
});

describe("what is refused", () => {
  const hostile: Array<[string, () => Promise<Buffer>, string]> = [
    [
      "a path that climbs",
      () =>
        archive([{ kind: "file", path: "../../etc/passwd", mode: 0o644, size: 1, content: () => once("x") }]),
      "corrupt",
    ],
    [
      "a hard link to nothing",
      () => archive([{ kind: "hardlink", path: "a", mode: 0o644, target: "b" }]),
      "corrupt",
    ],
    ["rubbish", async () => Buffer.alloc(5000, 7), "corrupt"],
    [
      "an archive that ends early",
      async () =>
        (
          await archive([
            { kind: "file", path: "a", mode: 0o644, size: 9000, content: () => once("x".repeat(9000)) },
          ])
        ).subarray(0, 4000),
      "corrupt",
    ],
  ];
  test.each(hostile)("%s", async (_name, make, code) => {
    const tar = await make();
    await expect(convert(rawLayout([[gzipSync(tar), tar]], "h"))).rejects.toMatchObject({ code });
    expect(readdirSync(bucketPath)).not.toContain("images");
  });

  test("truncated gzip, a wrong diff ID, a wrong layer digest", async () => {
    const tar = await archive([
      { kind: "file", path: "a", mode: 0o644, size: 3, content: () => once("abc") },
    ]);
    const gzip = gzipSync(tar);
    await expect(convert(rawLayout([[gzip.subarray(0, -5), tar]], "t"))).rejects.toMatchObject({
      code: "corrupt",
    });
    await expect(convert(rawLayout([[gzip, Buffer.from("other")]], "d"))).rejects.toMatchObject({
      code: "corrupt",
    });
    const source = rawLayout([[gzip, tar]], "l");
    const blob = join(
      source.slice("oci://".length),
      "blobs/sha256",
      createHash("sha256").update(gzip).digest("hex"),
    );
    writeFileSync(blob, Buffer.alloc(statSync(blob).size));
    await expect(convert(source)).rejects.toMatchObject({ code: "corrupt" });
    expect(readdirSync(bucketPath)).not.toContain("layers");
  });

  test("bombs: of bytes, of entries, of headers", async () => {
    const bomb = gzipSync(
      await archive([
        { kind: "file", path: "a", mode: 0o644, size: 50 << 20, content: () => once(Buffer.alloc(50 << 20)) },
      ]),
    );
    const limits = {
      chunkBytes: CHUNK_BYTES,
      layer: { entriesMax: 100, contentBytesMax: 10 << 20, xattrBytesMax: 1000 },
      archiveBytesMax: 20 << 20,
    };
    await expect(convert(rawLayout([[bomb, Buffer.alloc(0)]], "b"), { limits })).rejects.toMatchObject({
      code: "resourceExhausted",
    });
    const many = await archive(
      Array.from({ length: 200 }, (_, i) => ({ kind: "directory", path: `d${i}`, mode: 0o755 })),
    );
    await expect(convert(rawLayout([[many, many]], "m"), { limits })).rejects.toMatchObject({
      code: "resourceExhausted",
    });
    const hole = holes("2T");
    await expect(convert(rawLayout([[hole, hole]], "s"), { limits })).rejects.toMatchObject({
      code: "resourceExhausted",
    });
    const zeros = gzipSync(Buffer.alloc(30 << 20));
    await expect(convert(rawLayout([[zeros, Buffer.alloc(0)]], "z"), { limits })).rejects.toMatchObject({
      code: "resourceExhausted",
    });
  });

  test("holes of sparse files are converted without being stored, however large", async () => {
    const hole = holes("20G");
    const { sizes } = await convert(rawLayout([[hole, hole]], "l"));
    expect(sizes.contentBytes).toBe(20 * 2 ** 30 + 3);
    expect(sizes.wireBytes).toBeLessThan(CHUNK_BYTES);
  });

  test("an image that is not there", async () => {
    await expect(convert(`oci://${scratch}/nowhere`)).rejects.toMatchObject({ code: "notFound" });
  });
});

/** An archive with one sparse file, of holes and a word at its end. */
function holes(size: string): Buffer {
  const file = join(scratch, `holes-${++number}`);
  writeFileSync(file, "");
  execFileSync("truncate", ["-s", size, file]);
  appendFileSync(file, "end");
  const bytes = execFileSync("tar", ["--sparse", "-C", scratch, "-cf", "-", basename(file)]);
  rmSync(file);
  return bytes;
}

async function archive(items: TarItem[]): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of writeTar(items)) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function* once(bytes: string | Buffer): AsyncGenerator<Buffer> {
  yield Buffer.from(bytes);
}

/** A layout whose layers are given as stored bytes, with the archive that their diff ID is made of. */
function rawLayout(layers: Array<[stored: Buffer, archive: Buffer]>, name: string): string {
  const directory = join(scratch, `raw-${++number}-${name}`);
  mkdirSync(join(directory, "blobs/sha256"), { recursive: true });
  const blob = (bytes: Buffer) => {
    const hex = createHash("sha256").update(bytes).digest("hex");
    writeFileSync(join(directory, "blobs/sha256", hex), bytes);
    return { digest: `sha256:${hex}`, size: bytes.length };
  };
  const diffIds = layers.map(([, tar]) => `sha256:${createHash("sha256").update(tar).digest("hex")}`);
  const config = blob(
    Buffer.from(JSON.stringify({ ...hostPlatform(), rootfs: { type: "layers", diff_ids: diffIds } })),
  );
  const manifest = blob(
    Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers: layers.map(([stored]) => blob(stored)) })),
  );
  writeFileSync(join(directory, "index.json"), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
  return `oci://${directory}`;
}
