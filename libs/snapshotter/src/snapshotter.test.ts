// The rules of snapshots, on converted images that are plain directories. What containerd thinks of them is tested with real
// containerds (tests/containerd) and with containerd's own suite (containerd-suite).
import { link, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { SNAPSHOT_REF_LABEL } from "./labels.ts";
import type { ImageContent } from "./record.ts";
import { type Roots, Snapshotter } from "./snapshotter.ts";

const DIGEST = `sha256:${"a".repeat(64)}`;
/** Chain IDs: of the image's layers, and of another one's. */
const [ONE, TWO, THREE, ELSE] = ["1", "2", "3", "4"].map((digit) => `sha256:${digit.repeat(64)}`) as [
  string,
  string,
  string,
  string,
];
const LAYERS = [ONE, TWO, THREE];

let directory: string;
let needed: string[];
let wanted: string[];
let snapshotter: Snapshotter;

const rootOf = ({ layers }: ImageContent) => join(directory, "images", String(layers));

const roots: Roots = {
  async find({ chainId, manifestDigest, reference }) {
    const layers = LAYERS.indexOf(chainId) + 1;
    if (layers === 0 || manifestDigest !== DIGEST) return undefined;
    return { kind: "image", manifestDigest, reference, layers, layersTotal: LAYERS.length };
  },
  async with(content, use) {
    await mkdir(rootOf(content), { recursive: true });
    return use(rootOf(content));
  },
  started: () => undefined,
  diskBytes: async () => 42,
  async tidy(contents) {
    needed = [...new Set([...contents()].map(rootOf))];
  },
};

const open = async () => {
  const conversions = {
    want: (image: { reference: string }) => void wanted.push(image.reference),
    close() {},
  };
  snapshotter = await Snapshotter.open({ directory, roots, conversions });
};

/** As an unpacker asks for a layer of an image. */
const layerLabels = (chainId: string, manifestDigest = DIGEST) => ({
  [SNAPSHOT_REF_LABEL]: chainId,
  "containerd.io/snapshot/cri.manifest-digest": manifestDigest,
  "containerd.io/snapshot/cri.image-ref": "registry.example/image:1",
});
const keyOf = (chainId: string): string =>
  snapshotter.list([`labels."${SNAPSHOT_REF_LABEL}"==${chainId}`])[0]?.key ?? "";
const pullConverted = async () => {
  for (const [i, chainId] of LAYERS.entries()) {
    const parent = i === 0 ? "" : keyOf(LAYERS[i - 1] as string);
    await expect(
      snapshotter.prepare(`extract ${chainId}`, parent, layerLabels(chainId)),
    ).rejects.toMatchObject({
      code: "alreadyExists",
    });
  }
};
const commitLayer = async (name: string, parent: string) => {
  await snapshotter.prepare(`extract ${name}`, parent, {});
  await snapshotter.commit(name, `extract ${name}`, {}, "");
};
const optionsOf = (mounts: { options?: readonly string[] }[]) =>
  mounts.flatMap(({ options }) => options ?? []);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "snapshots-"));
  needed = [];
  wanted = [];
  await open();
});
afterEach(() => rm(directory, { recursive: true, force: true }));

describe("ordinary layers", () => {
  test("stand one on the other, the nearest first", async () => {
    await commitLayer("one", "");
    await commitLayer("two", "one");
    const [mount] = await snapshotter.prepare("container", "two", {});
    expect(mount).toMatchObject({ type: "overlay" });
    const [one, two, own] = [1, 2, 3].map((id) => join(directory, "snapshots", String(id)));
    expect(optionsOf([mount ?? {}])).toEqual(
      expect.arrayContaining([`lowerdir=${two}/fs:${one}/fs`, `upperdir=${own}/fs`, `workdir=${own}/work`]),
    );
    expect(await snapshotter.view("view", "one", {})).toEqual([
      { type: "bind", source: `${one}/fs`, options: ["ro", "rbind"] },
    ]);
    expect(await snapshotter.mounts("container")).toEqual([mount]);
  });
  test("a key is given once, over all kinds", async () => {
    await commitLayer("one", "");
    await expect(snapshotter.view("one", "", {})).rejects.toMatchObject({ code: "alreadyExists" });
    await snapshotter.prepare("active", "", {});
    await expect(snapshotter.commit("one", "active", {}, "")).rejects.toMatchObject({
      code: "alreadyExists",
    });
  });
  test("only what is committed has children, and what has children stays", async () => {
    await snapshotter.prepare("active", "", {});
    await expect(snapshotter.prepare("child", "active", {})).rejects.toMatchObject({
      code: "invalidArgument",
    });
    await expect(snapshotter.prepare("child", "nobody", {})).rejects.toMatchObject({ code: "notFound" });
    await commitLayer("one", "");
    await snapshotter.view("view", "one", {});
    await expect(snapshotter.remove("one")).rejects.toMatchObject({ code: "preconditionFailed" });
    await snapshotter.remove("view");
    await snapshotter.remove("one");
    await expect(snapshotter.remove("one")).rejects.toMatchObject({ code: "notFound" });
  });
  test("a view is not committed, and what is committed has no mounts", async () => {
    await snapshotter.view("view", "", {});
    await expect(snapshotter.commit("name", "view", {}, "")).rejects.toMatchObject({
      code: "preconditionFailed",
    });
    await commitLayer("one", "");
    await expect(snapshotter.mounts("one")).rejects.toMatchObject({ code: "preconditionFailed" });
  });
  test("a parent may be given when it is committed, not changed", async () => {
    await commitLayer("one", "");
    await snapshotter.prepare("free", "", {});
    await snapshotter.commit("two", "free", {}, "one");
    expect(snapshotter.stat("two").parent).toBe("one");
    await snapshotter.prepare("bound", "one", {});
    await expect(snapshotter.commit("three", "bound", {}, "two")).rejects.toMatchObject({
      code: "invalidArgument",
    });
  });
  test("labels can be changed one by one, nothing else can", async () => {
    await snapshotter.prepare("active", "", { a: "1", b: "2" });
    await snapshotter.update("active", { a: "3", c: "4" }, ["labels.a", "labels.b"]);
    expect(snapshotter.stat("active").labels).toEqual({ a: "3" });
    await snapshotter.update("active", { c: "4" }, []);
    expect(snapshotter.stat("active").labels).toEqual({ c: "4" });
    await expect(snapshotter.update("active", {}, ["parent"])).rejects.toMatchObject({
      code: "invalidArgument",
    });
  });
  test("what was written is counted, files with two names once", async () => {
    await snapshotter.prepare("active", "", {});
    const files = join(directory, "snapshots/1/fs");
    await writeFile(join(files, "file"), Buffer.alloc(100_000, 1));
    await link(join(files, "file"), join(files, "again"));
    const usage = await snapshotter.usage("active");
    expect(usage.inodes).toBe(2);
    expect(usage.bytes).toBeGreaterThanOrEqual(100_000);
    expect(usage.bytes).toBeLessThan(200_000);
    await snapshotter.commit("one", "active", {}, "");
    expect(await snapshotter.usage("one")).toEqual(usage);
  });
});

describe("converted images", () => {
  test("no layer is fetched, and a container stands on the whole image", async () => {
    await pullConverted();
    const mounts = await snapshotter.prepare("container", keyOf(THREE), {});
    expect(optionsOf(mounts)).toContain(`lowerdir=${join(directory, "images/3")}`);
    expect(await readdir(join(directory, "snapshots"))).toHaveLength(1);
    expect(await snapshotter.usage(keyOf(THREE))).toEqual({ bytes: 42, inodes: 0 });
    expect(wanted).toEqual([]);
  });
  test("a second pull finds the layers of the first", async () => {
    await pullConverted();
    await pullConverted();
    expect(snapshotter.list([])).toHaveLength(LAYERS.length);
  });
  test("a layer of another image on top of one of them stands on the part below it", async () => {
    await pullConverted();
    await snapshotter.prepare("extract", keyOf(ONE), layerLabels(ELSE, `sha256:${"b".repeat(64)}`));
    await snapshotter.commit(ELSE, "extract", {}, "");
    const mounts = await snapshotter.prepare("container", ELSE, {});
    const own = join(directory, "snapshots/4/fs");
    expect(optionsOf(mounts)).toContain(`lowerdir=${own}:${join(directory, "images/1")}`);
    expect(wanted).toEqual(["registry.example/image:1"]);
    await snapshotter.cleanup();
    expect(needed.sort()).toEqual([join(directory, "images/1"), join(directory, "images/3")]);
  });
  test("the same layer over an unpacked one is another snapshot", async () => {
    await commitLayer(ONE, "");
    const labels = layerLabels(TWO);
    await expect(snapshotter.prepare("extract", ONE, labels)).rejects.toThrow("converted image");
    await pullConverted();
    const found = snapshotter.list([`labels."${SNAPSHOT_REF_LABEL}"==${TWO}`]);
    expect(new Set(found.map(({ parent }) => parent))).toEqual(new Set([ONE, keyOf(ONE)]));
  });
  test("the image is not needed any more when its last snapshot went", async () => {
    await pullConverted();
    for (const chainId of [...LAYERS].reverse()) await snapshotter.remove(keyOf(chainId));
    expect(needed).toEqual([]);
    expect(snapshotter.images()).toEqual([]);
  });
});

describe("a killed process", () => {
  test("is the same again after a start", async () => {
    await pullConverted();
    await commitLayer("one", "");
    await snapshotter.prepare("container", "one", { a: "b" });
    const before = snapshotter.list([]);
    const mounts = await snapshotter.mounts("container");
    await open();
    expect(snapshotter.list([])).toEqual(expect.arrayContaining(before));
    expect(await snapshotter.mounts("container")).toEqual(mounts);
  });
  test("leaves directories that nobody knows, and half a record: they go", async () => {
    await commitLayer("one", "");
    await mkdir(join(directory, "snapshots/7/fs"), { recursive: true });
    await writeFile(join(directory, "records/8.json.new"), '{"format":1,');
    await open();
    expect(await readdir(join(directory, "snapshots"))).toEqual(["1"]);
    await snapshotter.prepare("next", "", {});
    expect(await readdir(join(directory, "snapshots"))).toEqual(["1", "8"]);
  });
  test("a record that cannot be read is set aside with its files", async () => {
    await commitLayer("one", "");
    await commitLayer("two", "");
    await writeFile(join(directory, "records/1.json"), "{}");
    await open();
    expect(snapshotter.list([]).map(({ key }) => key)).toEqual(["two"]);
    expect(await readdir(join(directory, "snapshots"))).toEqual(["1", "2"]);
    expect(await readFile(join(directory, "records/1.json.unreadable"), "utf8")).toBe("{}");
  });
});
