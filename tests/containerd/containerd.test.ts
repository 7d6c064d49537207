// Real containerds on the node agent's snapshots: images under their ordinary names, converted or not, pulled as people and
// kubelets pull them. Needs root, runc, and containerd (PILOTLIGHT_CONTAINERD names directories beside PATH).
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Containerd, findContainerds, pullOf, RELEASES, startContainerd } from "./containerd.ts";
import { containerHindrance, IMAGE_NAMES, type ImageName, SnapshotNode } from "./node.ts";

/** containerd looks for a plug-in that went away once in a while only, so what needs it is tried until it is found. */
const RECONNECTED = { timeout: 120_000, interval: 500 };
const TEST_TIMEOUT_MS = 180_000;

const containerds = await findContainerds();
const hindrance = await containerHindrance();

describe.each(RELEASES)("$name", ({ name, fits }) => {
  const version = containerds.find(fits);
  const why = hindrance ?? (version === undefined ? `${name} is not installed` : undefined);
  let node: SnapshotNode;
  let containerd: Containerd;

  const byCtr = (reference: string) => containerd.ctr(...pullOf(version), reference);
  const byKubelet = (reference: string) => containerd.criPull(reference);
  /** `ctr images pull` of 1.7 says nothing of images to snapshotters; its kubelet's door does. */
  const [usual, other] = version?.major === 1 ? [byKubelet, byCtr] : [byCtr, byKubelet];
  const pull = async (image: ImageName, way: (reference: string) => Promise<unknown> = usual) => {
    await way(node.reference(image));
    return node.registry.blobsRead();
  };
  const end = async (id: string) => {
    const { ctr } = containerd;
    await ctr("tasks", "kill", "--signal", "SIGKILL", id);
    await expect.poll(() => ctr("tasks", "list")).toMatch(new RegExp(`${id} .*STOPPED`));
    await ctr("tasks", "delete", id);
    await ctr("containers", "delete", id);
  };

  beforeAll(async () => {
    if (why !== undefined || version === undefined) return;
    node = await SnapshotNode.start();
    containerd = await startContainerd(version, node);
  });
  afterAll(async () => {
    await containerd?.stop();
    await node?.stop();
  });

  test("a converted image starts without any of its layers being fetched", async (context) => {
    if (why !== undefined) return context.skip(why);
    const read = await pull("tools");
    for (const layer of node.layersOf("tools")) expect(read).not.toContain(layer);
    expect(await containerd.run("tools", "first")).toContain("hello again");
    expect(node.registry.blobsRead()).toEqual([]);
  });

  test("by a kubelet and by ctr it is the same", async (context) => {
    if (why !== undefined) return context.skip(why);
    const listed = await containerd.ctr("images", "list", "--quiet");
    await containerd.ctr("images", "remove", "--sync", ...listed.trim().split("\n"));
    const read = await pull("tools", other);
    for (const layer of node.layersOf("tools")) expect(read).not.toContain(layer);
    expect(await containerd.run("tools", "other-way")).toContain("hello again");
    expect(node.registry.blobsRead()).toEqual([]);
  });

  test("what a container writes is its own", async (context) => {
    if (why !== undefined) return context.skip(why);
    const change = "echo changed > /greeting; echo new > /new; cat /greeting /new";
    expect(await containerd.run("tools", "writer", "sh", "-c", change)).toMatch(/changed\s+new/);
    expect(await containerd.run("tools", "reader")).toContain("hello again");
  });

  test("an image that shares layers with a converted one fetches only its own, and has the others' files", async (context) => {
    if (why !== undefined) return context.skip(why);
    const [shared = "", own = ""] = node.layersOf("sibling");
    const read = await pull("sibling");
    expect(read).not.toContain(shared);
    expect(read).toContain(own);
    expect(await containerd.run("sibling", "sibling")).toContain("from a sibling");
  });

  test("an image that is not converted is pulled as ever, and the converter is asked for it", async (context) => {
    if (why !== undefined) return context.skip(why);
    const read = await pull("stranger");
    expect(read).toEqual(expect.arrayContaining(node.layersOf("stranger")));
    expect(await containerd.run("stranger", "stranger")).toContain("from afar");
    expect(node.asked).toContain(node.pinned("stranger"));
  });

  test(
    "a killed agent comes back under running containers, and serves new ones",
    async (context) => {
      if (why !== undefined) return context.skip(why);
      const { ctr } = containerd;
      const long = node.named("long");
      const command = ["--snapshotter", "pilotlight", node.reference("tools"), long, "sleep", "600"];
      await ctr("run", "--detach", ...command);
      try {
        await node.killAgent();
        await node.startAgent();
        expect(await ctr("tasks", "exec", "--exec-id", "look", long, "cat", "/greeting")).toContain(
          "hello again",
        );
        await expect.poll(() => containerd.run("tools", "after-kill"), RECONNECTED).toContain("hello again");
      } finally {
        await end(long);
      }
    },
    TEST_TIMEOUT_MS,
  );

  test(
    "after a reboot images are mounted again when a container needs them",
    async (context) => {
      if (why !== undefined) return context.skip(why);
      await node.killAgent();
      await node.endMounting();
      expect(node.mounts()).toEqual([]);
      await node.startAgent();
      await expect.poll(() => containerd.run("tools", "after-reboot"), RECONNECTED).toContain("hello again");
      expect(await containerd.run("sibling", "sibling-after-reboot")).toContain("from a sibling");
    },
    TEST_TIMEOUT_MS,
  );

  test("nothing is left when the images are gone", async (context) => {
    if (why !== undefined) return context.skip(why);
    const listed = await containerd.ctr("images", "list", "--quiet");
    const names = listed.split("\n").filter((image) => image !== "");
    expect(names.length).toBeGreaterThanOrEqual(IMAGE_NAMES.length);
    await containerd.ctr("images", "remove", "--sync", ...names);
    const left = (folder: string) => () => readdirSync(join(node.snapshotDirectory, folder));
    for (const folder of ["records", "snapshots", "images"]) await expect.poll(left(folder)).toEqual([]);
    expect(node.mounts().filter((path) => path.startsWith(node.snapshotDirectory))).toEqual([]);
  });
});

describe("a client that does not say which image it pulls", () => {
  const version = containerds.find(({ major }) => major === 2);
  const why = hindrance ?? (version === undefined ? "containerd 2 is not installed" : undefined);
  let node: SnapshotNode;
  let containerd: Containerd;

  beforeAll(async () => {
    if (why !== undefined || version === undefined) return;
    node = await SnapshotNode.start();
    containerd = await startContainerd(version, node, { namesImages: false });
  });
  afterAll(async () => {
    await containerd?.stop();
    await node?.stop();
  });

  const pull = (image: ImageName) =>
    containerd.ctr("images", "pull", "--plain-http", "--snapshotter", "pilotlight", node.reference(image));

  test("gets converted images by what their layers are called", async (context) => {
    if (why !== undefined) return context.skip(why);
    await pull("tools");
    const read = node.registry.blobsRead();
    for (const layer of node.layersOf("tools")) expect(read).not.toContain(layer);
    expect(await containerd.run("tools", "unnamed")).toContain("hello again");
  });

  test("fetches of other images what no converted one has", async (context) => {
    if (why !== undefined) return context.skip(why);
    const [shared = "", own = ""] = node.layersOf("sibling");
    await pull("sibling");
    const read = node.registry.blobsRead();
    expect(read).not.toContain(shared);
    expect(read).toContain(own);
    expect(await containerd.run("sibling", "unnamed-sibling")).toContain("from a sibling");
  });
});
