import { execFileSync } from "node:child_process";
import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bytesOfText } from "../byte-string.ts";
import { fuzzRuns } from "../testing/fuzz-runs.ts";
import { readTar as read } from "../testing/read-tar.ts";
import { fixChecksum, paxBody, type TestEntry, tar } from "../testing/tar.ts";

describe("archives of GNU tar", () => {
  const scratch = mkdtempSync(join(tmpdir(), "tar-"));
  const source = join(scratch, "source");
  const long = `${"d".repeat(90)}/${"e".repeat(90)}/${"f".repeat(120)}`;
  beforeAll(() => {
    mkdirSync(join(source, long, ".."), { recursive: true });
    writeFileSync(join(source, long), "deep");
    writeFileSync(join(source, "plain"), "x".repeat(5000));
    writeFileSync(Buffer.from(`${source}/odd-\xff\xfe`, "latin1"), "odd");
    writeFileSync(join(source, "naïve-名"), "utf8");
    symlinkSync("t".repeat(200), join(source, "link"));
    linkSync(join(source, "plain"), join(source, "plain-again"));
    writeFileSync(join(source, "empty"), "");
    utimesSync(join(source, "plain"), 1_600_000_000.25, 1_600_000_000.25);
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  test.each(["gnu", "pax", "posix"])("of format %s are read in full, whatever the pieces", (format) => {
    const archive = execFileSync(
      "tar",
      [`--format=${format}`, "--sort=name", "-C", source, "-cf", "-", "."],
      { maxBuffer: 1 << 26 },
    );
    for (const pieceBytes of [1, 511, 512, 10_000]) {
      const entries = new Map(read(archive, pieceBytes).map((entry) => [entry.name, entry]));
      expect(entries.get(`./${long}`)).toMatchObject({ kind: "file", content: Buffer.from("deep") });
      expect(entries.get("./odd-\xff\xfe")?.content.toString()).toBe("odd");
      expect(entries.get(`./${bytesOfText("naïve-名")}`)?.content.toString()).toBe("utf8");
      expect(entries.get("./link")).toMatchObject({ kind: "symlink", linkTarget: "t".repeat(200), size: 0 });
      const links = ["./plain", "./plain-again"].map((name) => entries.get(name)!);
      expect(links.map(({ kind }) => kind).sort()).toEqual(["file", "hardlink"]);
      expect(entries.get("./")).toMatchObject({ kind: "directory" });
      expect(entries.get("./empty")).toMatchObject({ kind: "file", size: 0 });
      if (format !== "gnu")
        expect(links.find(({ kind }) => kind === "file")).toMatchObject({
          mtimeSeconds: 1_600_000_000,
          mtimeNanoseconds: 250_000_000,
        });
    }
  });
});

describe("headers", () => {
  test("binary numbers hold owners beyond octal and times before 1970", () => {
    const archive = tar([{ name: "f" }]);
    archive.fill(0, 108, 116);
    archive[108] = 0x80;
    archive.writeUIntBE(4_000_000_000, 109 + 1, 6);
    archive.fill(0xff, 136, 148);
    archive.writeInt32BE(-2, 144);
    fixChecksum(archive);
    expect(read(archive)[0]).toMatchObject({ uid: 4_000_000_000, mtimeSeconds: -2 });
  });
  test("pax times before 1970 round towards the past", () => {
    expect(read(tar([{ name: "f", pax: { mtime: "-1.25" } }]))[0]).toMatchObject({
      mtimeSeconds: -2,
      mtimeNanoseconds: 750_000_000,
    });
  });
  test("pax attributes are binary safe and belong to one entry", () => {
    const value = Buffer.from([0, 10, 255, 61]);
    const entries = read(tar([{ name: "a", pax: { "SCHILY.xattr.user.x": value } }, { name: "b" }]));
    expect(entries[0]!.xattrs.get("user.x")).toEqual(value);
    expect(entries[1]!.xattrs.size).toBe(0);
  });
  test("global pax records hold until replaced, local ones win", () => {
    const archive = tar([
      { name: "g", type: "g", content: paxBody({ uid: "7", gid: "8" }) },
      { name: "a" },
      { name: "b", pax: { uid: "9" } },
      { name: "c" },
    ]);
    expect(read(archive).map(({ uid, gid }) => [uid, gid])).toEqual([
      [7, 8],
      [9, 8],
      [7, 8],
    ]);
  });
  test("the ustar prefix counts only in POSIX archives", () => {
    const withPrefix = (magic: string) => {
      const archive = tar([{ name: "name", magic }]);
      archive.write("prefix", 345, "latin1");
      return fixChecksum(archive);
    };
    expect(read(withPrefix("ustar\u000000"))[0]!.name).toBe("prefix/name");
    expect(read(withPrefix("ustar  \0"))[0]!.name).toBe("name");
  });
  test("V7 directories are known by their slash, signed checksums are accepted", () => {
    expect(read(tar([{ name: "dir/", magic: "\0\0\0\0\0\0\0\0" }]))[0]!.kind).toBe("directory");
    const archive = tar([{ name: "\xff\xfe" }]);
    archive.fill(" ", 148, 156);
    const signed = archive.subarray(0, 512).reduce((sum, byte) => sum + (byte > 127 ? byte - 256 : byte), 0);
    archive.write(`${signed.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
    expect(read(archive)[0]!.name).toBe("\xff\xfe");
  });
});

describe("what is refused", () => {
  const refused: Array<[string, Buffer, string]> = [
    ["a wrong checksum", Buffer.from(tar([{ name: "a" }])).fill("z", 0, 1), "corrupt"],
    [
      "an archive that ends inside a file",
      tar([{ name: "a", content: "x".repeat(3000) }]).subarray(0, 2000),
      "corrupt",
    ],
    ["an archive that ends inside a header", tar([{ name: "a" }]).subarray(0, 300), "corrupt"],
    [
      "an archive that ends after a long name",
      tar([{ name: "L", type: "L", content: "long" }]).subarray(0, 1024),
      "corrupt",
    ],
    ["an unknown type", tar([{ name: "a", type: "Q" }]), "unsupported"],
    ["a huge extension", tar([{ name: "a", type: "x", size: 1 << 30 }]), "corrupt"],
    [
      "a lying record length",
      tar([{ name: "a", type: "x", content: "99 path=x\n" }, { name: "b" }]),
      "corrupt",
    ],
    [
      "a record length of nothing",
      tar([{ name: "a", type: "x", content: "5 x=\n6 y=z\n" }, { name: "b" }]).fill("0", 512, 513),
      "corrupt",
    ],
    ["an owner of -1", tar([{ name: "a", pax: { uid: "4294967295" } }]), "corrupt"],
    ["letters for a size", fixChecksum(Buffer.from(tar([{ name: "a" }])).fill("x", 124, 134)), "corrupt"],
  ];
  test.each(refused)("%s", (_name, archive, code) => {
    expect(() => read(archive)).toThrow(expect.objectContaining({ code }));
  });
  test("whatever comes, the reader ends with entries or one of its errors", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record<TestEntry>({
            name: fc.string({ unit: "binary-ascii", maxLength: 99 }),
            type: fc.constantFrom("0", "1", "2", "5", "x", "L", "g"),
            content: fc.string(),
          }),
          { maxLength: 5 },
        ),
        fc.array(fc.tuple(fc.nat(4000), fc.nat(255)), { maxLength: 6 }),
        fc.integer({ min: 1, max: 3000 }),
        (entries, damage, pieceBytes) => {
          const archive = tar(entries);
          for (const [at, byte] of damage) if (at < archive.length) archive[at] = byte;
          try {
            read(archive, pieceBytes);
          } catch (error) {
            expect(["corrupt", "unsupported"]).toContain((error as { code?: string }).code);
          }
        },
      ),
      { numRuns: fuzzRuns(400) },
    );
  });
});
