// The way of an image from a layout directory to a program that runs in it, by every way of mounting that works here.
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import {
  type Imagefs,
  type LaunchMode,
  launch,
  type Mount,
  type MountMethod,
  openImagefs,
} from "@pilotlight/imagefs";
import { type ObjectStore, openStore } from "@pilotlight/object-store";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ConvertedImage, convertImage } from "./index.ts";
import { nodeBinary, writeNodeImage } from "./testing/demo-image.ts";

const scratch = mkdtempSync(join(tmpdir(), "mounting-"));
const PROGRAM = `
import { readFileSync } from "node:fs";
process.stdout.write(JSON.stringify({
  args: process.argv.slice(2), greeting: process.env.GREETING, cwd: process.cwd(), uid: process.getuid(),
  groups: process.getgroups(), pid: process.pid, data: readFileSync(new URL("./data.txt", import.meta.url), "utf8"),
}));
`;

let bucket: ObjectStore;
let image: ConvertedImage;

beforeAll(async () => {
  chmodSync(scratch, 0o755);
  const layout = await writeNodeImage(join(scratch, "layout"), [
    { to: "/app/main.mjs", content: PROGRAM },
    { to: "/app/data.txt", content: "x".repeat(300_000) },
  ]);
  mkdirSync(join(scratch, "bucket"));
  bucket = await openStore(`file://${join(scratch, "bucket")}`);
  image = await convertImage({ source: layout.reference, bucket });
});

afterAll(async () => {
  await bucket?.close();
  rmSync(scratch, { recursive: true, force: true });
});

async function output(
  imagefs: Imagefs,
  mount: Mount,
): Promise<{ seen: Record<string, unknown>; mode: LaunchMode; code: number | null }> {
  const launched = await launch(imagefs, mount, {
    env: { EXTRA: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exit = new Promise<number | null>((resolve) => launched.process.once("exit", resolve));
  const seen = JSON.parse(await text(launched.process.stdout as NodeJS.ReadableStream)) as Record<
    string,
    unknown
  >;
  return { seen, mode: launched.mode, code: await exit };
}

describe.each<MountMethod>(["fanotify", "fuse", "extract"])("mounted by %s", (method) => {
  const cacheDir = join(scratch, `cache-${method}`);
  const imagefs = openImagefs({ cacheDir });
  afterAll(() => imagefs.stop());

  test("the image's program runs with the image's own configuration", async ({ skip }) => {
    const probe = await imagefs.probe();
    if (method !== "extract" && !probe[method].ok) skip(`${method}: ${probe[method].why}`);
    const mount = await imagefs.mount({
      bucket,
      manifestDigest: image.manifestDigest,
      imageId: image.imageId,
      mountpoint: join(scratch, `root-${method}`),
      method,
      fill: false,
    });
    expect(mount.method).toBe(method);
    const { seen, mode, code } = await output(imagefs, mount);
    expect(code).toBe(0);
    expect(seen).toMatchObject({ args: ["from", "cmd"], greeting: "hello" });
    expect(seen.data).toHaveLength(300_000);
    if (mode === "namespaces")
      expect(seen).toMatchObject({ uid: 1000, groups: [1000, 2000], cwd: "/app", pid: 2 });
    expect(readFileSync(join(mount.root, "usr/bin/node")).equals(readFileSync(nodeBinary()))).toBe(true);
    await mount.fill();
    if (method !== "extract")
      await expect
        .poll(async () => (await imagefs.stats())?.images.map((one) => one.presentBytes >= one.dataBytes))
        .toEqual([true]);
    await mount.unmount();
  });
});

describe("without root", () => {
  test.runIf(process.geteuid?.() === 0)(
    "an ordinary user runs the image in user namespaces or directly",
    () => {
      // The same test file's program, as nobody: in a process of its own, since this one is root.
      const home = join(scratch, "nobody");
      mkdirSync(home);
      execFileSync("chown", ["-R", "65534:65534", home]);
      for (const hidden of [false, true]) {
        const out = execFileSync(
          nodeBinary(),
          [
            join(import.meta.dirname, "./testing/run-unprivileged.ts"),
            `file://${join(scratch, "bucket")}`,
            image.manifestDigest,
            join(home, `cache-${hidden}`),
            String(hidden),
          ],
          { uid: 65534, gid: 65534, env: { PATH: "/usr/bin:/bin", HOME: home }, encoding: "utf8" },
        );
        const { mode, seen } = JSON.parse(out) as { mode: LaunchMode; seen: Record<string, unknown> };
        expect(seen).toMatchObject({ args: ["from", "cmd"], greeting: "hello" });
        if (hidden) expect(mode).toBe("direct");
        else if (mode === "userNamespaces") expect(seen).toMatchObject({ uid: 1000, cwd: "/app", pid: 2 });
      }
    },
  );
});
