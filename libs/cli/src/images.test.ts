// `pilotlight image` without any platform: an image from a layout directory, a bucket that is a directory, nothing else.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openImagefs } from "@pilotlight/imagefs";
import { openStore } from "@pilotlight/object-store";
import { hostPlatform, MERGED_USR_LINKS, sharedLibrarySources, writeOciLayout } from "@pilotlight/oci";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { runCli } from "./cli.ts";

const scratch = mkdtempSync(join(tmpdir(), "cli-images-"));
const bucketDir = mkdtempSync(join(scratch, "bucket-"));
const bucket = `file://${bucketDir}`;
const layout = `oci://${join(scratch, "layout")}:demo`;
const probe = await openImagefs({ cacheDir: join(scratch, "probe") }).probe();
const mounts = process.geteuid?.() === 0 && (probe.fanotify.ok || probe.fuse.ok);
let digest: string;

beforeAll(async () => {
  const shell = await sharedLibrarySources(["/bin/sh"]);
  const written = await writeOciLayout({
    directory: join(scratch, "layout"),
    tag: "demo",
    platform: hostPlatform(),
    layers: [
      [
        ...MERGED_USR_LINKS,
        ...shell,
        { from: "/bin/sh", to: "/usr/bin/sh", dereference: true },
        ...["/proc", "/sys", "/dev", "/tmp"].map((to) => ({ to, directory: true as const })),
      ],
      [
        { to: "/etc/greeting", content: "hello\n", mode: 0o640 },
        { to: "/data/large", content: "0123456789".repeat(200_000) },
      ],
    ],
    run: { cmd: ["/usr/bin/sh", "-c", "read line < /etc/greeting"] },
  });
  digest = written.manifestDigest;
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function run(...args: string[]) {
  const out: string[] = [];
  const err: string[] = [];
  const code = await runCli(["image", ...args], {
    env: {},
    cwd: scratch,
    out: (line) => void out.push(`${line}\n`),
    write: (text) => void out.push(text),
    err: (line) => void err.push(`${line}\n`),
    draw: (text) => void err.push(text),
    isLive: false,
    columns: 100,
    interrupted: new AbortController().signal,
    style: (_format, text) => text,
  });
  return { code, out: out.join(""), err: err.join("") };
}

describe("without a platform", () => {
  test("convert makes the image, and the second time finds it", async () => {
    const first = await run("convert", layout, "--bucket", bucket);
    expect(first).toMatchObject({ code: 0 });
    expect(first.out).toContain(`is converted: ${digest}`);
    expect(first.err).toMatch(/layers, \d+ %/);
    const second = await run("convert", layout, "--bucket", bucket, "--json");
    expect(JSON.parse(second.out)).toMatchObject({ manifestDigest: digest, alreadyConverted: true });
  });

  test("inspect takes a digest, its beginning, or the reference", async () => {
    for (const image of [digest, digest.slice(7, 14), layout]) {
      const { code, out } = await run("inspect", image, "--bucket", bucket, "--json");
      expect(code).toBe(0);
      expect(JSON.parse(out)).toMatchObject({
        manifestDigest: digest,
        command: ["/usr/bin/sh", "-c", expect.any(String)],
      });
    }
  });

  test("what is not there, and what is not a reference, is said with a remedy", async () => {
    const absent = await run("inspect", "sha256:0000", "--bucket", bucket);
    expect(absent.code).toBe(3);
    expect(absent.err).toContain("'pilotlight image convert' makes one");
    const nonsense = await run("convert", "oci:///nowhere:demo", "--bucket", bucket);
    expect(nonsense.code).toBe(3);
    const bucketless = await run("inspect", "sha256:0000");
    expect(bucketless).toMatchObject({ code: 2 });
    expect(bucketless.err).toContain("--bucket");
  });

  test.runIf(mounts)("verify compares every file with what GNU tar unpacks", async () => {
    const { code, out } = await run(
      "verify",
      digest,
      "--bucket",
      bucket,
      "--against",
      layout,
      "--scratch",
      scratch,
      "--json",
    );
    expect(JSON.parse(out)).toMatchObject({ problems: [], differences: [] });
    expect(JSON.parse(out).filesCompared).toBeGreaterThan(10);
    expect(code).toBe(0);
    expect(readdirSync(scratch).filter((name) => name.startsWith("pilotlight-verify"))).toEqual([]);
  });

  test.runIf(mounts)("profile records a start, and inspect shows it", async () => {
    const { code, out } = await run("profile", digest, "--bucket", bucket, "--json");
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ starts: 1, hotBytes: expect.any(Number) });
    const shown = JSON.parse((await run("inspect", digest, "--bucket", bucket, "--json")).out);
    expect(shown.profiles).toMatchObject([{ hotPackBytes: expect.any(Number) }]);
    const failed = await run("profile", digest, "--bucket", bucket, "--", "/usr/bin/sh", "-c", "exit 3");
    expect(failed.code).toBe(5);
    expect(failed.err).toContain("ended with 3");
  });

  test.runIf(mounts)("mount shows the files, unmount takes them away", async () => {
    const where = ["--cache", join(scratch, "mount-cache")];
    expect(await run("mount", digest, "mounted", "--bucket", bucket, ...where)).toMatchObject({ code: 0 });
    expect(readFileSync(join(scratch, "mounted/etc/greeting"), "utf8")).toBe("hello\n");
    expect(await run("unmount", "mounted", ...where)).toMatchObject({ code: 0 });
    await openImagefs({ cacheDir: join(scratch, "mount-cache") }).stop();
  });

  test.runIf(mounts)(
    "seed fills a cache from which the image is read without a pack of the bucket",
    async () => {
      const cache = join(scratch, "seeded");
      const seeded = await run("seed", digest, "--bucket", bucket, "--cache", cache, "--json");
      expect(seeded.code).toBe(0);
      expect(JSON.parse(seeded.out)).toMatchObject({ manifestDigest: digest, dataBytes: expect.any(Number) });
      const withoutPacks = mkdtempSync(join(scratch, "without-packs-"));
      cpSync(join(bucketDir, "images"), join(withoutPacks, "images"), { recursive: true });
      const poor = openStore(`file://${withoutPacks}`);
      const imagefs = openImagefs({ cacheDir: cache });
      const { root } = await imagefs.mount({
        bucket: poor,
        manifestDigest: digest,
        mountpoint: join(scratch, "from-seed"),
      });
      expect((await readFile(join(root, "data/large"), "utf8")).length).toBe(2_000_000);
      await imagefs.stop();
      await poor.close();
    },
  );

  test.runIf(mounts)(
    "a copy of a seeded cache, also on a read-only disk, starts without the bucket's packs",
    { timeout: 60_000 },
    async () => {
      const seed = join(scratch, "seed-of-a-node-image");
      expect((await run("seed", digest, "--bucket", bucket, "--cache", seed, "--json")).code).toBe(0);
      const withoutPacks = mkdtempSync(join(scratch, "without-packs-"));
      cpSync(join(bucketDir, "images"), join(withoutPacks, "images"), { recursive: true });
      const poor = openStore(`file://${withoutPacks}`);
      const snapshot = join(scratch, "snapshot");
      cpSync(seed, snapshot, { recursive: true, filter: (path) => !path.endsWith(".sock") });
      const readOnly = join(scratch, "read-only");
      mkdirSync(readOnly);
      execFileSync("mount", ["--bind", seed, readOnly]);
      execFileSync("mount", ["-o", "remount,bind,ro", readOnly]);
      try {
        for (const options of [
          { cacheDir: snapshot },
          { cacheDir: join(scratch, "cache-beside-a-seed"), seedDirs: [join(scratch, "no-such"), readOnly] },
        ]) {
          const imagefs = openImagefs(options);
          const { root } = await imagefs.mount({
            bucket: poor,
            manifestDigest: digest,
            mountpoint: join(scratch, "from-a-copy"),
          });
          expect((await readFile(join(root, "data/large"), "utf8")).length).toBe(2_000_000);
          const [image] = (await imagefs.stats())?.images ?? [];
          expect(image).toMatchObject({ fetchedBytes: 0, failedReads: 0, watched: false });
          await imagefs.stop();
        }
      } finally {
        execFileSync("umount", ["--lazy", readOnly]);
      }
      await poor.close();
    },
  );

  test("verify names the chunk that is wrong, and ends with 5", async () => {
    const [pack = ""] = readdirSync(join(bucketDir, "packs"));
    const path = join(bucketDir, "packs", pack);
    const good = readFileSync(path);
    const bad = Buffer.from(good);
    bad[0] = (bad[0] ?? 0) ^ 1;
    writeFileSync(path, bad);
    const { code, out } = await run("verify", digest, "--bucket", bucket);
    expect(code).toBe(5);
    expect(out).toMatch(/chunk [0-9a-f]{12} in packs\//);
    writeFileSync(path, good);
  });

  test("gc keeps what is named and young, and asks before it deletes everything", async () => {
    expect((await run("gc", "--bucket", bucket)).err).toContain("--all");
    expect((await run("gc", "--bucket", bucket, "--all", "--grace", "soon")).code).toBe(2);
    const young = await run("gc", "--bucket", bucket, "--all", "--json");
    expect(JSON.parse(young.out)).toMatchObject({ images: 0, packs: 0 });
    const kept = await run("gc", "--bucket", bucket, "--keep", digest, "--grace", "0s", "--json");
    expect(JSON.parse(kept.out)).toMatchObject({ images: 0 });
    const gone = await run("gc", "--bucket", bucket, "--all", "--grace", "0s", "--json");
    expect(JSON.parse(gone.out)).toMatchObject({ images: 1 });
    expect((await run("inspect", digest, "--bucket", bucket)).code).toBe(3);
  });
});
