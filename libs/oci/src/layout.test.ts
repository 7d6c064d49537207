import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeEach, describe, expect, test } from "vitest";
import { decompressed, openImage, type WriteLayoutOptions, writeOciLayout } from "./index.ts";

const scratch = mkdtempSync(join(tmpdir(), "layout-"));
let directory = "";
let number = 0;
beforeEach(() => {
  directory = join(scratch, String(++number));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const AMD64 = { os: "linux", architecture: "amd64" };
const ARM64 = { os: "linux", architecture: "arm64" };

function options(extra: Partial<WriteLayoutOptions> = {}): WriteLayoutOptions {
  return {
    directory,
    tag: "v1",
    platform: AMD64,
    layers: [
      [{ to: "/a/file", content: "one" }],
      [
        { to: `/long/${"n".repeat(120)}`, content: "two" },
        { to: "/link", symlink: "a/file" },
      ],
    ],
    run: { entrypoint: ["/a/file"], env: { A: "1" }, user: "7:8" },
    ...extra,
  };
}

async function names(reference: string): Promise<string[][]> {
  const image = await openImage(reference, { platform: AMD64 });
  return Promise.all(
    image.layers.map(async (layer) => {
      const pieces: Buffer[] = [];
      for await (const piece of decompressed(image.layer(layer))) pieces.push(Buffer.from(piece));
      const tar = Buffer.concat(pieces);
      expect(`sha256:${createHash("sha256").update(tar).digest("hex")}`).toBe(layer.diffId);
      return execFileSync("tar", ["-tf", "-"], { input: tar, encoding: "utf8" }).trim().split("\n");
    }),
  );
}

describe("a written layout", () => {
  test("is read back, layer by layer, by GNU tar too", async () => {
    const { reference, manifestDigest } = await writeOciLayout(options());
    const image = await openImage(reference, { platform: AMD64 });
    expect(image).toMatchObject({ manifestDigest, platform: "linux/amd64" });
    expect(image.configDocument.config).toMatchObject({ Entrypoint: ["/a/file"], Env: ["A=1"], User: "7:8" });
    expect(await names(reference)).toEqual([
      ["a/", "a/file"],
      ["link", "long/", `long/${"n".repeat(120)}`],
    ]);
  });
  test("of a file tree is the same bytes whatever the files' times, owners and order", async () => {
    const tree = join(scratch, `tree-${number}`);
    const write = (order: string[]) => {
      rmSync(tree, { recursive: true, force: true });
      mkdirSync(join(tree, "sub"), { recursive: true });
      for (const name of order) writeFileSync(join(tree, name), name);
      chmodSync(join(tree, "b"), 0o711);
      symlinkSync("b", join(tree, "link"));
      utimesSync(join(tree, "b"), Math.random() * 1e9, 1e9);
      return writeOciLayout(
        options({
          directory: join(scratch, `out-${Math.random()}`),
          layers: [[{ from: tree, to: "/app", exclude: (path) => path.endsWith(".map") }]],
        }),
      );
    };
    const first = await write(["b", "sub/a", "x.map"]);
    const second = await write(["sub/a", "b"]);
    expect(second.manifestDigest).toBe(first.manifestDigest);
    expect(await names(first.reference)).toEqual([["app/", "app/b", "app/link", "app/sub/", "app/sub/a"]]);
  });
  test("holds several tags and platforms, and replaces what has the same of both", async () => {
    await writeOciLayout(options({ layers: [[{ to: "/old", content: "old" }]] }));
    const amd = await writeOciLayout(options());
    const arm = await writeOciLayout(options({ platform: ARM64 }));
    const other = await writeOciLayout(options({ tag: "v2", layers: [] }));
    expect((await openImage(`oci://${directory}:v1`, { platform: AMD64 })).manifestDigest).toBe(
      amd.manifestDigest,
    );
    expect(
      (await openImage(`oci://${directory}@${arm.manifestDigest}`, { platform: ARM64 })).manifestDigest,
    ).toBe(arm.manifestDigest);
    expect((await openImage(other.reference, { platform: AMD64 })).layers).toEqual([]);
    expect(JSON.parse(readFileSync(join(directory, "index.json"), "utf8")).manifests).toHaveLength(3);
    expect(readdirSync(directory).sort()).toEqual(["blobs", "index.json", "oci-layout"]);
  });
});

describe("what is refused", () => {
  const blob = (content: string | Buffer) => {
    const bytes = Buffer.from(content);
    const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
    writeFileSync(join(directory, "blobs/sha256", digest.slice(7)), bytes);
    return { digest, size: bytes.length };
  };
  /** A layout of one image whose documents the test shapes. */
  function layout(shape: {
    layers?: object[];
    config?: object;
    manifest?: object;
    platform?: object;
  }): string {
    mkdirSync(join(directory, "blobs/sha256"), { recursive: true });
    const config = blob(
      JSON.stringify({
        os: "linux",
        architecture: "amd64",
        rootfs: { type: "layers", diff_ids: (shape.layers ?? []).map(() => `sha256:${"0".repeat(64)}`) },
        ...shape.config,
      }),
    );
    const manifest = blob(
      JSON.stringify({ schemaVersion: 2, config, layers: shape.layers ?? [], ...shape.manifest }),
    );
    writeFileSync(
      join(directory, "index.json"),
      JSON.stringify({
        schemaVersion: 2,
        manifests: [{ ...manifest, ...(shape.platform && { platform: shape.platform }) }],
      }),
    );
    return `oci://${directory}`;
  }
  const open = (reference: string) => openImage(reference, { platform: AMD64 });

  test("a directory that is none, and a tag that is not there", async () => {
    await expect(open(`oci://${directory}:v1`)).rejects.toMatchObject({ code: "notFound" });
    await writeOciLayout(options());
    await expect(open(`oci://${directory}:v9`)).rejects.toMatchObject({
      code: "notFound",
      remedy: expect.stringContaining("v1"),
    });
  });
  test("another platform, naming those there are", async () => {
    await writeOciLayout(options({ platform: ARM64 }));
    await expect(open(`oci://${directory}:v1`)).rejects.toMatchObject({
      code: "notFound",
      message: expect.stringContaining("linux/arm64"),
    });
  });
  test("foreign layers", async () => {
    const layer = {
      mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
      digest: `sha256:${"1".repeat(64)}`,
      size: 1,
      urls: ["https://x"],
    };
    await expect(open(layout({ layers: [layer] }))).rejects.toMatchObject({ code: "unsupported" });
  });
  test("a schema 1 manifest, an artefact, a manifest that is no JSON", async () => {
    await expect(open(layout({ manifest: { schemaVersion: 1 } }))).rejects.toMatchObject({
      code: "unsupported",
    });
    await expect(open(layout({ config: { rootfs: undefined } }))).rejects.toMatchObject({ code: "corrupt" });
    await expect(
      open(layout({ config: { rootfs: { type: "layers", diff_ids: [`sha256:${"0".repeat(64)}`] } } })),
    ).rejects.toMatchObject({ code: "corrupt" });
  });
  test("blobs with another content or length than promised", async () => {
    const { reference } = await writeOciLayout(options());
    const image = await open(reference);
    const [layer] = image.layers;
    const path = join(directory, "blobs/sha256", layer!.digest.slice(7));
    const read = async () => {
      for await (const piece of image.layer(layer!)) void piece;
    };
    const good = readFileSync(path);
    writeFileSync(path, gzipSync("other").subarray(0, good.length));
    await expect(read()).rejects.toMatchObject({ code: "corrupt" });
    writeFileSync(path, Buffer.concat([good, Buffer.from("x")]));
    await expect(read()).rejects.toMatchObject({ code: "corrupt" });
    writeFileSync(path, Buffer.from(good).fill("x", 10, 11));
    await expect(read()).rejects.toMatchObject({ code: "corrupt" });
    writeFileSync(join(directory, "blobs/sha256", image.manifestDigest.slice(7)), "{}");
    await expect(open(`oci://${directory}@${image.manifestDigest}`)).rejects.toMatchObject({
      code: "corrupt",
    });
  });
});
