// The metadata image against three readers: our own, the kernel's, and fsck.erofs where it is installed.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { assembleImage } from "../assemble.ts";
import { fuzzRuns } from "../testing/fuzz-runs.ts";
import { scanTar } from "../testing/image.ts";
import { type TestEntry, tar } from "../testing/tar.ts";
import { readErofs } from "./read.ts";

const UUID = Buffer.from("0123456789abcdef", "latin1");

function image(layers: TestEntry[][], metadataPieceBytes = 64 << 10): { metadata: Buffer; data: Buffer } {
  const scanned = layers.map((layer) => scanTar(tar(layer)));
  const assembled = assembleImage(
    scanned.map(({ record }) => record),
    { metadataPieceBytes, uuid: UUID },
  );
  const pieces = [...assembled.metadata.pieces()];
  expect(pieces.slice(0, -1).every(({ length }) => length === metadataPieceBytes)).toBe(true);
  const byHash = new Map(
    scanned.flatMap(({ record, chunks }) =>
      record.chunks.map(({ sha256 }, i) => [sha256.toString("hex"), chunks[i]!] as const),
    ),
  );
  const data = assembled.data.chunks.map(({ sha256 }) => byHash.get(sha256.toString("hex"))!);
  return { metadata: Buffer.concat(pieces), data: Buffer.concat(data) };
}

const DEEP = Array.from({ length: 15 }, (_, i) => `${i}${"d".repeat(200)}`);
const TORTURE: TestEntry[][] = [
  [
    { name: "./", type: "5", mode: 0o755 },
    { name: "big/", type: "5" },
    ...Array.from({ length: 1500 }, (_, i) => ({
      name: `big/${"n".repeat(i % 90)}-${i}`,
      content: i % 3 === 0 ? "" : `content ${i}`,
    })),
    { name: "empty-directory/", type: "5", mode: 0o1777, uid: 70_000, gid: 80_000 },
    { name: "setuid", content: "s", mode: 0o6755, uid: 1 },
    { name: "null", type: "3", devMajor: 1, devMinor: 3, mode: 0o666 },
    { name: "block", type: "4", devMajor: 259, devMinor: 300_000 },
    { name: "fifo", type: "6" },
    { name: "link", type: "2", link: "big/-0" },
    { name: "long-link", type: "2", pax: { linkpath: "x".repeat(4095) } },
    { name: "hard", type: "1", link: "setuid" },
    { name: "odd-\xff\xfe\n \\", content: "odd" },
    { name: "huge", content: Buffer.alloc(300_001, "abc") },
    { name: "old", content: "o", pax: { mtime: "-1.5" } },
    {
      name: "caps",
      content: "c",
      pax: {
        "SCHILY.xattr.security.capability": Buffer.from("0100000200200000000000000000000000000000", "hex"),
      },
    },
    {
      name: "attrs",
      content: "a",
      pax: Object.fromEntries(
        Array.from({ length: 40 }, (_, i) => [
          `SCHILY.xattr.user.${"k".repeat(i)}${i}`,
          Buffer.alloc(i * 9, i),
        ]),
      ),
    },
    { name: "d-attr/", type: "5", pax: { "SCHILY.xattr.user.big": Buffer.alloc(5000, 7) } },
    ...DEEP.map(
      (_, i): TestEntry => ({ name: "x", type: "5", pax: { path: `${DEEP.slice(0, i + 1).join("/")}/` } }),
    ),
  ],
  [
    { name: "big/.wh.nnn-3", content: "" },
    { name: "huge", content: "now small" },
    { name: "block/", type: "5" },
    { name: "block/inside", content: "x" },
  ],
];

describe("what is written", () => {
  const { metadata, data } = image(TORTURE);
  const entries = [...readErofs(metadata)];
  const at = (path: string) => entries.find((entry) => entry.path === path)!;

  test("is read back entry by entry", () => {
    expect(at("")).toMatchObject({ kind: "directory", links: 2 + 5 });
    expect(at("empty-directory")).toMatchObject({ mode: 0o1777, uid: 70_000, gid: 80_000, links: 2 });
    expect(at("setuid")).toMatchObject({ mode: 0o6755, links: 2, inode: at("hard").inode });
    expect(at("null")).toMatchObject({ kind: "charDevice", devMajor: 1, devMinor: 3 });
    expect(at("link").linkTarget).toBe("big/-0");
    expect(at("long-link").linkTarget).toBe("x".repeat(4095));
    expect(at("old")).toMatchObject({ mtimeSeconds: -2, mtimeNanoseconds: 500_000_000 });
    expect(at("attrs").xattrs.size).toBe(40);
    expect(at("d-attr").xattrs.get("user.big")).toEqual(Buffer.alloc(5000, 7));
    expect(entries.filter(({ path }) => path.startsWith("big/"))).toHaveLength(1499);
    for (const entry of entries.filter(({ path, size }) => path.startsWith("big/") && size > 0)) {
      const start = entry.contentOffset!;
      expect(data.toString("latin1", start, start + entry.size)).toMatch(/^content \d+$/);
    }
  });

  test("is the same for the same input, whatever the pieces", () => {
    expect(image(TORTURE, 4096).metadata.equals(metadata)).toBe(true);
  });

  test("has a checksum that notices a changed superblock", () => {
    const damaged = Buffer.from(metadata);
    damaged.writeUInt8(1, 1024 + 16);
    expect(() => [...readErofs(damaged)]).toThrow(expect.objectContaining({ code: "corrupt" }));
  });

  test("damaged metadata are refused or read, never a crash", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(metadata.length - 1), fc.nat(255)), { minLength: 1, maxLength: 20 }),
        (damage) => {
          const damaged = Buffer.from(metadata);
          // The superblock's checksum would catch everything in the first block.
          for (const [position, byte] of damage) damaged[Math.max(position, 4096)] = byte;
          try {
            for (const entry of readErofs(damaged)) expect(entry.path).not.toContain("//");
          } catch (error) {
            expect(["corrupt", "unsupported"], String(error)).toContain((error as { code?: string }).code);
          }
        },
      ),
      { numRuns: fuzzRuns(150) },
    );
  });
});

describe("other readers", () => {
  const scratch = mkdtempSync(join(tmpdir(), "erofs-"));
  const { metadata, data } = image(TORTURE);
  const paths = {
    metadata: join(scratch, "meta.erofs"),
    data: join(scratch, "data.blob"),
    root: join(scratch, "root"),
  };
  writeFileSync(paths.metadata, metadata);
  writeFileSync(paths.data, data);
  mkdirSync(paths.root);
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  test("fsck.erofs finds nothing wrong", ({ skip }) => {
    const { error, status, stderr } = spawnSync("fsck.erofs", [`--device=${paths.data}`, paths.metadata], {
      encoding: "utf8",
    });
    if (error !== undefined) skip("fsck.erofs is not installed (erofs-utils)");
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });

  test("the kernel shows the same tree", ({ skip }) => {
    const devices: string[] = [];
    try {
      for (const path of [paths.metadata, paths.data])
        devices.push(
          execFileSync("losetup", ["--find", "--show", "--read-only", path], {
            encoding: "utf8",
            stdio: "pipe",
          }).trim(),
        );
      execFileSync("mount", ["-t", "erofs", "-o", `ro,device=${devices[1]}`, devices[0]!, paths.root], {
        stdio: "pipe",
      });
    } catch (error) {
      for (const device of devices) spawnSync("losetup", ["--detach", device]);
      skip(`no EROFS mount here: ${String((error as { stderr?: Buffer }).stderr ?? error).trim()}`);
    }
    try {
      const listing = execFileSync("python3", ["-c", WALK, paths.root], {
        maxBuffer: 1 << 26,
        encoding: "utf8",
      });
      const seen = listing
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Record<string, unknown>);
      const expected = [...readErofs(metadata)].map((entry) => ({
        path: Buffer.from(entry.path, "latin1").toString("hex"),
        kind: { file: 8, directory: 4, symlink: 10, charDevice: 2, blockDevice: 6, fifo: 1 }[entry.kind],
        mode: entry.mode,
        owner: [entry.uid, entry.gid],
        mtime: String(BigInt(entry.mtimeSeconds) * 1_000_000_000n + BigInt(entry.mtimeNanoseconds)),
        links: entry.links,
        device: [entry.devMajor, entry.devMinor],
        content: contentOf(entry),
        xattrs: [...entry.xattrs].map(([name, value]) => [name, value.toString("hex")]).sort(),
      }));
      const byPath = (a: Record<string, unknown>, b: Record<string, unknown>) =>
        (a.path as string) < (b.path as string) ? -1 : 1;
      expect(seen.sort(byPath)).toEqual(expected.sort(byPath));
    } finally {
      spawnSync("umount", [paths.root]);
      for (const device of devices) spawnSync("losetup", ["--detach", device]);
    }
  });

  function contentOf(entry: ReturnType<typeof readErofs> extends Generator<infer E> ? E : never): string {
    if (entry.kind === "symlink") return Buffer.from(entry.linkTarget, "latin1").toString("hex");
    if (entry.kind !== "file") return "";
    const start = entry.contentOffset ?? 0;
    return data.toString("hex", start, start + entry.size);
  }
});

/** Every entry as a line of JSON, told by the kernel alone. */
const WALK = `
import json, os, stat, sys
root = os.fsencode(sys.argv[1])
def show(path, name):
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode) >> 12
    content = b""
    if kind == 10: content = os.readlink(path)
    elif kind == 8: content = open(path, "rb").read()
    device = [os.major(s.st_rdev), os.minor(s.st_rdev)] if kind in (2, 6) else [0, 0]
    xattrs = sorted([n, os.getxattr(path, n, follow_symlinks=False).hex()] for n in os.listxattr(path, follow_symlinks=False))
    print(json.dumps({"path": name.hex(), "kind": kind, "mode": s.st_mode & 0o7777, "owner": [s.st_uid, s.st_gid], "mtime": str(s.st_mtime_ns),
        "links": s.st_nlink, "device": device, "content": content.hex(), "xattrs": xattrs}))
    if kind == 4:
        os.chdir(path)
        for child in os.listdir(b"."): show(child, name + b"/" + child if name else child)
        os.chdir(b"..")
os.chdir(root)
show(b".", b"")
`;
