import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_IMAGEFS_TIMES } from "@pilotlight/imagefs";
import { hostPlatform, writeOciLayout } from "@pilotlight/oci";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type PulledImages, pulledImages } from "./pulled-images.ts";

const scratch = mkdtempSync(join(tmpdir(), "pulled-"));
const signal = new AbortController().signal;
let reference = "";
let digest = "";
let images: PulledImages;

beforeAll(async () => {
  const layout = await writeOciLayout({
    directory: join(scratch, "layout"),
    tag: "v1",
    platform: hostPlatform(),
    layers: [[{ to: "/greeting", content: "hello" }], [{ to: "/greeting", content: "hello again" }]],
    run: {},
  });
  ({ reference, manifestDigest: digest } = layout);
  images = pulledImages(join(scratch, "pulled"), {
    method: "auto",
    registry: {},
    keepMs: 60_000,
    times: DEFAULT_IMAGEFS_TIMES,
  });
});
afterAll(async () => {
  await images.close(true);
  rmSync(scratch, { recursive: true, force: true });
});

test("an image is pulled without the converter, mounted, and kept as long as a place uses it", async () => {
  const [image] = await Promise.all([
    images.pull(reference, digest, signal),
    images.pull(reference, digest, signal),
  ]);
  expect(image).toMatchObject({ manifestDigest: digest, pulled: true });
  await images.runtime.mount("place", image, signal);
  await images.clear();
  const found = await Promise.all(
    ["places/roots/place/greeting", `cache/trees/${digest.slice(7)}/greeting`].map((path) =>
      readFile(join(scratch, "pulled", path), "utf8").catch(() => undefined),
    ),
  );
  expect(found).toContain("hello again");
  await images.runtime.unmount("place");
  expect(existsSync(join(scratch, "pulled/bucket/packs"))).toBe(true);
});

test("a pull that nobody waits for is given up", async () => {
  const gone = new AbortController();
  const pull = images.pull(reference, digest, gone.signal);
  gone.abort(new Error("gone"));
  await expect(pull).rejects.toThrow("gone");
});
