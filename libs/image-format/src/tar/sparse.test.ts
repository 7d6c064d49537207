import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { DEFAULT_LAYER_LIMITS, LayerScanner } from "../layer-scan.ts";
import { fuzzRuns } from "../testing/fuzz-runs.ts";
import { scanTar, TEST_CHUNK_BYTES } from "../testing/image.ts";
import { readTar } from "../testing/read-tar.ts";
import { SPARSE_FORMS, type SparseForm, sparseEntry, type TestSparse } from "../testing/sparse-tar.ts";
import { fixChecksum, paxBody, tar } from "../testing/tar.ts";

const END = Buffer.alloc(1024);
const archiveOf = (form: SparseForm, file: TestSparse) => Buffer.concat([sparseEntry(form, file), END]);
const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

describe("archives of GNU tar", () => {
  const scratch = mkdtempSync(join(tmpdir(), "sparse-"));
  const source = join(scratch, "source");
  const runs = (count: number, spacing: number) => Array.from({ length: count }, (_, i) => i * spacing);
  /** Size, and where pieces of data begin. */
  const FILES: Record<string, [size: number, at: number[], piece: number]> = {
    "hole-only": [3_000_000, [], 0],
    "data-first": [1_000_000, [0], 5000],
    "data-last": [1_000_000, [995_904], 4096],
    "data-between": [900_001, [409_600], 70_000],
    "five-runs": [2_000_000, runs(5, 400_000), 4096],
    "many-runs": [6_000_000, runs(90, 65_536), 4097],
    ["n".repeat(120)]: [500_000, [131_072], 10],
    plain: [10_000, [0], 10_000],
  };
  const FORMATS: Array<[string, string[]]> = [
    ["gnu", ["--format=gnu"]],
    ...["0.0", "0.1", "1.0"].map((version): [string, string[]] => [
      `posix ${version}`,
      ["--format=posix", `--sparse-version=${version}`],
    ]),
  ];
  const archive = (flags: string[]) =>
    execFileSync("tar", [...flags, "--sparse", "--sort=name", "-C", source, "-cf", "-", "."], {
      maxBuffer: 1 << 26,
    });

  beforeAll(() => {
    mkdirSync(source);
    for (const [name, [size, at, piece]] of Object.entries(FILES)) {
      const file = openSync(join(source, name), "w");
      for (const offset of at) writeSync(file, Buffer.alloc(piece, `${name}${offset}`), 0, piece, offset);
      closeSync(file);
      truncateSync(join(source, name), size);
    }
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  test.each(FORMATS)(
    "of format %s are read as GNU tar and Python read them, whatever the pieces",
    (_name, flags) => {
      const bytes = archive(flags);
      expect(bytes.length).toBeLessThan(2_000_000);
      const unpacked = join(scratch, flags.join());
      mkdirSync(unpacked);
      execFileSync("tar", ["-C", unpacked, "-xf", "-"], { input: bytes });
      const byTar = Object.fromEntries(
        readdirSync(unpacked).map((name) => [name, sha256(readFileSync(join(unpacked, name)))]),
      );
      const script = `import sys, io, json, hashlib, tarfile
t = tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))
print(json.dumps({m.name.split('/')[-1]: hashlib.sha256(t.extractfile(m).read()).hexdigest() for m in t if m.isreg()}))`;
      const byPython = JSON.parse(execFileSync("python3", ["-c", script], { input: bytes }).toString());
      expect(byTar).toEqual(byPython);
      for (const pieceBytes of [509, 512, 100_000]) {
        const files = readTar(bytes, pieceBytes).filter(({ kind }) => kind === "file");
        expect(
          Object.fromEntries(files.map(({ name, content }) => [name.slice(2), sha256(content)])),
        ).toEqual(byTar);
      }
    },
  );

  test("offsets beyond octal and beyond 8 GiB are understood", () => {
    const file = join(source, "huge");
    const at = 70 * 2 ** 30;
    const handle = openSync(file, "w");
    writeSync(handle, "end", at);
    closeSync(handle);
    const outcomes = FORMATS.map(([, flags]) => {
      const bytes = execFileSync("tar", [...flags, "--sparse", "-C", source, "-cf", "-", "huge"]);
      return scanned(bytes);
    });
    rmSync(file);
    for (const { size, zeros, buffers, tail } of outcomes) {
      expect(size).toBe(at + 3);
      // The hole's first and last chunk, and the one with data.
      expect(buffers).toBe(3);
      expect(zeros).toBe(at / TEST_CHUNK_BYTES - 2);
      expect(tail.toString("latin1", 0, 4)).toBe("end\0");
    }
  });
});

/** What a layer's scanner does with an archive of one file. */
function scanned(bytes: Buffer): { size: number; zeros: number; buffers: number; tail: Buffer } {
  let zeros = 0;
  let buffers = 0;
  let tail: Buffer = Buffer.alloc(0);
  const scanner = new LayerScanner(TEST_CHUNK_BYTES, {
    acquire: () => Buffer.alloc(TEST_CHUNK_BYTES),
    chunk: (_number, buffer) => {
      buffers++;
      tail = buffer;
    },
    zeros: () => zeros++,
  });
  for (let at = 0; at < bytes.length; ) at += scanner.push(bytes.subarray(at));
  scanner.finish();
  return { size: scanner.contentBytes, zeros, buffers, tail };
}

/** A file of alternating holes and runs; the lengths need not fit blocks. */
const sparseFile = fc
  .record({
    steps: fc.array(fc.tuple(fc.nat(3 * TEST_CHUNK_BYTES), fc.nat(2000)), { minLength: 1, maxLength: 60 }),
    tail: fc.nat(3 * TEST_CHUNK_BYTES),
  })
  .map(({ steps, tail }) => {
    const runs: Array<[number, number]> = [];
    const pieces: Buffer[] = [];
    let at = 0;
    for (const [hole, length] of steps) {
      runs.push([at + hole, length]);
      pieces.push(Buffer.alloc(hole), Buffer.alloc(length, `run ${at}`));
      at += hole + length;
    }
    const content = Buffer.concat([...pieces, Buffer.alloc(tail)]);
    const stored = Buffer.concat(pieces.filter((_, i) => i % 2 === 1));
    return { content, file: { name: "f", size: content.length, runs, stored } };
  });

describe("a sparse file", () => {
  test("in any form becomes the layer that it would be written plainly", () => {
    fc.assert(
      fc.property(sparseFile, fc.integer({ min: 1, max: 3000 }), ({ content, file }, pieceBytes) => {
        const before = { name: "before", content: "small" };
        const plain = scanTar(tar([before, { name: "f", content }, before]));
        for (const form of SPARSE_FORMS) {
          const start = tar([before]).subarray(0, -1024);
          const archive = Buffer.concat([start, sparseEntry(form, file), tar([before])]);
          const sparse = scanTar(archive, pieceBytes);
          expect(sparse.record).toEqual(plain.record);
          expect(Buffer.concat(sparse.chunks).equals(Buffer.concat(plain.chunks))).toBe(true);
        }
      }),
      { numRuns: fuzzRuns(20) },
    );
  });

  test("whatever its map says, it is read as stated or refused", () => {
    const length = fc.oneof(fc.nat(3000), fc.nat(TEST_CHUNK_BYTES), fc.maxSafeNat());
    fc.assert(
      fc.property(
        fc.constantFrom(...SPARSE_FORMS),
        fc.record({
          size: length,
          runs: fc.array(fc.tuple(length, length), { maxLength: 40 }),
          stored: fc.nat(3000).map((bytes) => Buffer.alloc(bytes, 1)),
        }),
        fc.array(fc.tuple(fc.nat(4000), fc.nat(255)), { maxLength: 3 }),
        fc.integer({ min: 1, max: 3000 }),
        (form, file, damage, pieceBytes) => {
          const archive = archiveOf(form, { name: "f", ...file });
          for (const [at, byte] of damage) if (at < archive.length) archive[at] = byte;
          try {
            readTar(archive, pieceBytes);
          } catch (error) {
            expect(["corrupt", "unsupported", "resourceExhausted"]).toContain(
              (error as { code?: string }).code,
            );
          }
        },
      ),
      { numRuns: fuzzRuns(400) },
    );
  });

  test("of a petabyte is refused by the limit before anything is done", () => {
    for (const form of SPARSE_FORMS) {
      const archive = archiveOf(form, { name: "f", size: 2 ** 50, runs: [[0, 1]], stored: Buffer.from("x") });
      const touched = (): never => {
        throw new Error("the sink was touched");
      };
      const scanner = new LayerScanner(TEST_CHUNK_BYTES, {
        acquire: touched,
        chunk: touched,
        zeros: touched,
      });
      const push = () => {
        for (let at = 0; at < archive.length; ) at += scanner.push(archive.subarray(at));
      };
      expect(push).toThrow(expect.objectContaining({ code: "resourceExhausted" }));
      expect(2 ** 50).toBeGreaterThan(DEFAULT_LAYER_LIMITS.contentBytesMax);
    }
  });

  test("with data in many chunks stops the scanner at each of them", () => {
    const runs = Array.from({ length: 1000 }, (_, i) => [i * 2 * TEST_CHUNK_BYTES, 1] as const);
    const file = { name: "f", size: 2000 * TEST_CHUNK_BYTES, runs, stored: Buffer.alloc(1000, 1) };
    for (const form of SPARSE_FORMS) {
      let filled = 0;
      let buffersMax = 0;
      const scanner = new LayerScanner(TEST_CHUNK_BYTES, {
        acquire: () => Buffer.alloc(TEST_CHUNK_BYTES),
        chunk: () => filled++,
        zeros: () => undefined,
      });
      const archive = archiveOf(form, file);
      for (let at = 0; at < archive.length; filled = 0) {
        at += scanner.push(archive.subarray(at));
        buffersMax = Math.max(buffersMax, filled);
      }
      scanner.finish();
      expect(buffersMax).toBeLessThanOrEqual(3);
    }
  });
});

describe("what is refused", () => {
  const good = { name: "f", size: 100, runs: [[10, 5] as const], stored: Buffer.from("12345") };
  const maps: Array<[string, Partial<TestSparse>]> = [
    [
      "runs that overlap",
      {
        runs: [
          [10, 3],
          [12, 2],
        ],
      },
    ],
    [
      "runs out of order",
      {
        runs: [
          [20, 3],
          [10, 2],
        ],
      },
    ],
    [
      "an empty run out of order",
      {
        runs: [
          [20, 0],
          [10, 5],
        ],
      },
    ],
    ["a run beyond the file", { runs: [[98, 5]] }],
    [
      "a run that begins beyond the file",
      {
        runs: [
          [10, 5],
          [101, 0],
        ],
      },
    ],
    ["a run whose end is beyond 2^53", { runs: [[Number.MAX_SAFE_INTEGER, 5]] }],
    ["less data than the map says", { runs: [[10, 6]] }],
    ["more data than the map says", { runs: [[10, 4]] }],
  ];
  test.each(maps)("%s", (_name, change) => {
    for (const form of SPARSE_FORMS) {
      expect(readTar(archiveOf(form, good))[0]).toMatchObject({ name: "f", size: 100 });
      expect(() => readTar(archiveOf(form, { ...good, ...change })), form).toThrow(
        expect.objectContaining({ code: "corrupt" }),
      );
    }
  });

  const pax = (records: Record<string, string>, content = "12345") =>
    tar([
      {
        name: "a",
        content,
        pax: Object.entries(records).map(([key, value]) => [`GNU.sparse.${key}`, value]),
      },
    ]);
  const v01 = { size: "100", numblocks: "1", map: "10,5" };
  const v10 = { major: "1", minor: "0", realsize: "100" };
  const negative = archiveOf("gnu", good);
  negative.fill(0xff, 386 + 12, 386 + 24);
  const headers: Array<[string, Buffer, string]> = [
    ["a version that nobody knows", pax({ ...v10, major: "2" }), "unsupported"],
    ["the same type in star's layout", tar([{ name: "a", type: "S" }]), "unsupported"],
    ["no size", pax({ numblocks: "1", map: "10,5" }), "corrupt"],
    ["no count", pax({ size: "100", map: "10,5" }), "corrupt"],
    ["another count", pax({ ...v01, numblocks: "2" }), "corrupt"],
    ["a count beyond numbers", pax({ ...v01, numblocks: "99999999999999999999" }), "corrupt"],
    ["no run at all", pax({ ...v01, numblocks: "0", map: "" }, ""), "corrupt"],
    ["half a run", pax({ ...v01, map: "10,5,7" }), "corrupt"],
    ["letters in a map", pax({ ...v01, map: "10,x" }), "corrupt"],
    ["lengths before offsets", pax({ size: "100", numblocks: "1", numbytes: "5", offset: "10" }), "corrupt"],
    [
      "a map beside runs",
      pax({ size: "100", numblocks: "1", offset: "10", numbytes: "5", map: "10,5" }),
      "corrupt",
    ],
    ["a record of an unknown name", pax({ ...v01, colour: "blue" }), "corrupt"],
    ["a map that its entry is too short for", pax(v10, "1\n10\n"), "corrupt"],
    ["a map that never ends", pax(v10, "\n0".repeat(2 << 20).replace("\n", "9999999999")), "corrupt"],
    ["a map that is one long line", pax(v10, "1".repeat(2000)), "corrupt"],
    ["a map of letters", pax(v10, "one\nten\nfive\n".padEnd(512, "\0")), "corrupt"],
    ["a negative length", fixChecksum(negative), "corrupt"],
    [
      "a sparse directory",
      tar([{ name: "a/", type: "5", pax: { "GNU.sparse.size": "0", "GNU.sparse.numblocks": "0" } }]),
      "corrupt",
    ],
    [
      "sparse records in a global header",
      tar([
        { name: "g", type: "g", content: paxBody({ "GNU.sparse.size": "5" }) },
        { name: "a", content: "12345" },
      ]),
      "corrupt",
    ],
    ["an archive that ends inside a map", archiveOf("1.0", good).subarray(0, 512 * 3 + 100), "corrupt"],
    [
      "an archive that ends before an extension block",
      archiveOf("gnu", {
        ...good,
        runs: Array.from({ length: 30 }, (_, i) => [i, 0]),
        stored: END.subarray(0, 0),
      }).subarray(0, 1024),
      "corrupt",
    ],
  ];
  test.each(headers)("%s", (_name, archive, code) => {
    expect(() => readTar(archive)).toThrow(expect.objectContaining({ code }));
  });

  test("a chain of extension blocks that never ends", () => {
    const head = archiveOf("gnu", { ...good, runs: Array.from({ length: 5 }, (_, i) => [i, 0] as const) });
    const block = head.subarray(512, 1024);
    block[504] = 1;
    const endless = Buffer.concat([head.subarray(0, 512), ...Array<Buffer>(3000).fill(block)]);
    expect(() => readTar(endless)).toThrow(/longer than/);
  });
});
