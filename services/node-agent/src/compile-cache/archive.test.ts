import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { zstdCompressSync } from "node:zlib";
import { type TarItem, writeTar } from "@pilotlight/oci";
import { afterEach, beforeEach, expect, test } from "vitest";
import { packFolder, unpackArchive } from "./archive.ts";

let scratch: string;
beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), "compile-cache-"));
});
afterEach(() => rm(scratch, { recursive: true, force: true }));

const never = new AbortController().signal;
const MIB = 1024 ** 2;

const file = (path: string, text: string): TarItem => ({
  kind: "file",
  path,
  mode: 0o644,
  size: Buffer.byteLength(text),
  async *content() {
    yield Buffer.from(text);
  },
});

/** Unpacks an archive of these items, with the digest that it has. */
async function unpacked(items: TarItem[], bytesMax = MIB): Promise<number> {
  const bytes = zstdCompressSync(Buffer.concat(await Array.fromAsync(writeTar(items))));
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  async function* body() {
    yield bytes;
  }
  return unpackArchive(body(), join(scratch, "unpacked"), { bytesMax, sha256 }, never);
}

test("what a folder holds comes back: files, folders, programs that may be run", async () => {
  const folder = join(scratch, "folder");
  await mkdir(join(folder, "triton/a"), { recursive: true });
  await writeFile(join(folder, "triton/a/kernel.so"), "machine code");
  await chmod(join(folder, "triton/a/kernel.so"), 0o755);
  await writeFile(join(folder, "empty"), "");
  const archive = join(scratch, "archive");
  const { sha256, ...packed } = await packFolder(folder, archive, MIB);
  expect(packed).toEqual({ bytes: 12, files: 2 });
  const target = join(scratch, "unpacked");
  expect(await unpackArchive(createReadStream(archive), target, { bytesMax: MIB, sha256 }, never)).toBe(12);
  expect(await readFile(join(target, "triton/a/kernel.so"), "utf8")).toBe("machine code");
  expect((await stat(join(target, "triton/a/kernel.so"))).mode & 0o100).toBe(0o100);
  expect((await readdir(target)).sort()).toEqual(["empty", "triton"]);
});

test("the same folder gives the same archive", async () => {
  const folder = join(scratch, "folder");
  await mkdir(folder);
  for (const name of ["b", "a"]) await writeFile(join(folder, name), name);
  const [one, two] = [
    await packFolder(folder, join(scratch, "1"), MIB),
    await packFolder(folder, join(scratch, "2"), MIB),
  ];
  expect(one.sha256).toBe(two.sha256);
});

test("symbolic links are left out, whatever they lead to", async () => {
  const folder = join(scratch, "folder");
  await mkdir(folder);
  await writeFile(join(scratch, "secret"), "of the host");
  await symlink(join(scratch, "secret"), join(folder, "file"));
  await symlink(scratch, join(folder, "directory"));
  expect(await packFolder(folder, join(scratch, "archive"), MIB)).toMatchObject({ bytes: 0, files: 0 });
});

test("a folder that is itself a link is refused", async () => {
  await symlink(scratch, join(scratch, "folder"));
  await expect(packFolder(join(scratch, "folder"), join(scratch, "archive"), MIB)).rejects.toThrow();
});

test("a folder above the limit is refused", async () => {
  const folder = join(scratch, "folder");
  await mkdir(folder);
  await writeFile(join(folder, "large"), "x".repeat(1000));
  await expect(packFolder(folder, join(scratch, "archive"), 999)).rejects.toMatchObject({
    code: "resourceExhausted",
    field: "compileCache.sizeMaxMb",
  });
});

test.each<[why: string, items: TarItem[]]>([
  ["a symbolic link", [{ kind: "symlink", path: "link", mode: 0o777, target: "/etc" }]],
  ["a hard link", [{ kind: "hardlink", path: "link", mode: 0o644, target: "/etc/shadow" }]],
  ["a way out", [file("../outside", "x")]],
  ["a folder that was never made", [file("missing/file", "x")]],
  ["a file that comes twice", [file("one", "x"), file("one", "y")]],
  ["a file for a folder", [{ kind: "directory", path: "one", mode: 0o755 }, file("one", "y")]],
  ["more bytes than allowed", [file("large", "x".repeat(101))]],
])("an archive with %s is corrupt", async (_why, items) => {
  await expect(unpacked(items, 100)).rejects.toMatchObject({ code: "corrupt" });
  expect(await readdir(scratch)).not.toContain("outside");
});

test("an archive with another digest is corrupt, and one that is cut off", async () => {
  const bytes = zstdCompressSync(Buffer.concat(await Array.fromAsync(writeTar([file("one", "x")]))));
  async function* body(part: Buffer) {
    yield part;
  }
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const limits = { bytesMax: MIB, sha256 };
  const wrong = { ...limits, sha256: "0".repeat(64) };
  await expect(unpackArchive(body(bytes), join(scratch, "1"), wrong, never)).rejects.toMatchObject({
    code: "corrupt",
  });
  const cut = bytes.subarray(0, bytes.length - 4);
  await expect(unpackArchive(body(cut), join(scratch, "2"), limits, never)).rejects.toThrow();
});
