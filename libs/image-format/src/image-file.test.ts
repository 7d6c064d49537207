import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { encodeImageFile, type ImageParts, parseImageFile, parseImageManifest } from "./image-file.ts";
import { BLOB_KINDS, encodeIndex, type ImageIndex, parseIndex } from "./image-index.ts";
import { decodeLayerRecord, encodeLayerRecord } from "./layer-record.ts";
import { fuzzRuns } from "./testing/fuzz-runs.ts";
import { scanTar } from "./testing/image.ts";
import { tar } from "./testing/tar.ts";

const sha = (text: string) => createHash("sha256").update(text).digest();
const digest = (text: string) => `sha256:${sha(text).toString("hex")}`;

const ociConfig = '{"os":"linux","architecture":"amd64"}';
const ociManifest = JSON.stringify({ schemaVersion: 2, config: { digest: digest(ociConfig) } });
const metadataPack = Buffer.from("metadata");

function index(): ImageIndex {
  return {
    blobs: [
      {
        kind: BLOB_KINDS.erofsMetadata,
        chunks: [
          { sha256: sha("m"), rawLength: 4096, pack: 0, packOffset: 0, wireLength: 8, encoding: "zstd" },
        ],
      },
      {
        kind: BLOB_KINDS.erofsData,
        chunks: [
          { sha256: sha("a"), rawLength: 8192, pack: 1, packOffset: 0, wireLength: 8192, encoding: "raw" },
          { sha256: sha("z"), rawLength: 4096, pack: 0, packOffset: 0, wireLength: 0, encoding: "zeros" },
          {
            sha256: sha("b"),
            rawLength: 65_536,
            pack: 1,
            packOffset: 8192,
            wireLength: 100,
            encoding: "zstd",
          },
        ],
      },
      { kind: 77, chunks: [] },
    ],
    packs: [
      { sha256: Buffer.alloc(32), size: metadataPack.length },
      { sha256: sha("pack"), size: 9000 },
    ],
  };
}

function parts(): ImageParts {
  const sizes = { contentBytes: 1, files: 1, dataBytes: 77_824, wireBytes: 8292, metadataBytes: 4096 };
  return {
    manifestDigest: digest(ociManifest),
    platform: "linux/amd64",
    ociManifest,
    ociConfig,
    index: index(),
    metadataPack,
    sizes,
  };
}

describe("the index", () => {
  test("is read as it was written, blobs of unknown kinds included", () => {
    expect(parseIndex(encodeIndex(index()))).toEqual(index());
  });
  test("of another version is refused by name", () => {
    const bytes = encodeIndex(index());
    bytes.writeUInt32LE(2, 8);
    expect(() => parseIndex(bytes)).toThrow(
      expect.objectContaining({ code: "unsupported", message: expect.stringContaining("version 2") }),
    );
  });
  test.each<[string, (index: ImageIndex) => void]>([
    ["a chunk outside its pack", (i) => Object.assign(i.blobs[1]!.chunks[2]!, { packOffset: 8950 })],
    ["a chunk of an unknown pack", (i) => Object.assign(i.blobs[1]!.chunks[2]!, { pack: 2 })],
    ["a chunk of no bytes", (i) => Object.assign(i.blobs[1]!.chunks[2]!, { rawLength: 0 })],
    [
      "a chunk that is no multiple of a page",
      (i) => Object.assign(i.blobs[1]!.chunks[2]!, { rawLength: 5000 }),
    ],
    ["a gigantic chunk", (i) => Object.assign(i.blobs[1]!.chunks[2]!, { rawLength: 8 << 20 })],
    [
      "a raw chunk of another stored length",
      (i) => Object.assign(i.blobs[1]!.chunks[0]!, { wireLength: 8000 }),
    ],
    ["a compressed chunk that grew", (i) => Object.assign(i.blobs[1]!.chunks[2]!, { wireLength: 65_536 })],
    ["stored zeros", (i) => Object.assign(i.blobs[1]!.chunks[1]!, { wireLength: 1 })],
  ])("with %s is refused", (_name, damage) => {
    const damaged = index();
    damage(damaged);
    expect(() => parseIndex(encodeIndex(damaged))).toThrow(expect.objectContaining({ code: "corrupt" }));
  });
  test("whatever the bytes, parsing ends with an index or one of its errors", () => {
    const good = encodeIndex(index());
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 10 }),
        fc.nat(good.length),
        (damage, length) => {
          const bytes = Buffer.from(good.subarray(0, length));
          for (const [at, byte] of damage) if (at < length) bytes[at] = byte;
          try {
            expect(encodeIndex(parseIndex(bytes)).length).toBe(bytes.length);
          } catch (error) {
            expect(["corrupt", "unsupported"], String(error)).toContain((error as { code?: string }).code);
          }
        },
      ),
      { numRuns: fuzzRuns(2000) },
    );
  });
});

describe("the image object", () => {
  test("is the same bytes for the same parts, and read as it was written", () => {
    const { bytes, manifest } = encodeImageFile(parts());
    expect(encodeImageFile(parts()).bytes.equals(bytes)).toBe(true);
    const file = parseImageFile(bytes);
    expect(file).toEqual({ manifest, index: index(), metadataPack });
    expect(parseImageManifest(bytes.subarray(0, 4096))).toEqual(manifest);
  });
  test("has an identity that does not depend on where chunks lie", () => {
    const elsewhere = parts();
    elsewhere.index.packs[1]!.size = 100_000;
    elsewhere.index.blobs[1]!.chunks[2]!.packOffset = 50_000;
    expect(encodeImageFile(elsewhere).manifest.imageId).toBe(encodeImageFile(parts()).manifest.imageId);
    const other = parts();
    other.index.blobs[1]!.chunks[2]!.sha256 = sha("c");
    expect(encodeImageFile(other).manifest.imageId).not.toBe(encodeImageFile(parts()).manifest.imageId);
  });
  test("of another version is refused by name", () => {
    const { bytes } = encodeImageFile(parts());
    bytes.writeUInt32LE(9, 8);
    expect(() => parseImageFile(bytes)).toThrow(
      expect.objectContaining({ code: "unsupported", message: expect.stringContaining("version 9") }),
    );
  });
  test("with any byte of header, manifest or index changed is refused, or read as the same image", () => {
    const { bytes, manifest } = encodeImageFile(parts());
    const written = parseImageFile(bytes);
    const end = manifest.index.offset + manifest.index.length;
    fc.assert(
      fc.property(fc.nat(end - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        // Bytes 48 to 63 are reserved.
        if (at >= 48 && at < 64) return;
        const damaged = Buffer.from(bytes);
        damaged[at] = damaged[at]! ^ change;
        let read: unknown;
        try {
          read = parseImageFile(damaged);
        } catch (error) {
          expect((error as { code?: string }).code).toMatch(/corrupt|unsupported/);
          return;
        }
        // A compressed index has a few bits that no reader needs; its content is checksummed inflated.
        expect(at).toBeGreaterThanOrEqual(manifest.index.offset);
        expect(read).toEqual(written);
      }),
      { numRuns: fuzzRuns(1000) },
    );
  });
  test("whose original documents do not match their digests is refused", () => {
    expect(() =>
      parseImageFile(encodeImageFile({ ...parts(), manifestDigest: digest("other") }).bytes),
    ).toThrow(/digest/);
    expect(() => parseImageFile(encodeImageFile({ ...parts(), ociConfig: "{}" }).bytes)).toThrow(/digest/);
  });
});

describe("a layer record", () => {
  const { record } = scanTar(
    tar([
      { name: "a/", type: "5" },
      {
        name: "a/file",
        content: "x".repeat(100_000),
        pax: { mtime: "-1.5", "SCHILY.xattr.user.a": Buffer.from([0, 255]) },
      },
      { name: "a/link", type: "2", link: "file" },
      { name: "a/hard", type: "1", link: "a/file" },
      { name: "null", type: "3", devMajor: 1, devMinor: 3 },
    ]),
  );
  test("is read as it was written", () => {
    expect(decodeLayerRecord(encodeLayerRecord(record))).toEqual(record);
  });
  test("that is damaged is refused", () => {
    const good = encodeLayerRecord(record);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        (damage) => {
          const bytes = Buffer.from(good);
          for (const [at, byte] of damage) bytes[at] = byte;
          try {
            decodeLayerRecord(bytes);
          } catch (error) {
            expect(["corrupt", "unsupported"], String(error)).toContain((error as { code?: string }).code);
          }
        },
      ),
      { numRuns: fuzzRuns(500) },
    );
  });
});
