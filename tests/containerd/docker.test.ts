// Docker's containerd image store on the node agent's snapshots. Needs root, runc, dockerd, docker and a containerd.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Containerd, findContainerds, startContainerd } from "./containerd.ts";
import { type Docker, dockerHindrance, startDocker } from "./docker.ts";
import { containerHindrance, IMAGE_NAMES, SnapshotNode } from "./node.ts";

const [version] = await findContainerds();
const why =
  (await containerHindrance()) ??
  (await dockerHindrance()) ??
  (version === undefined ? "containerd is not installed" : undefined);

describe("Docker", () => {
  let node: SnapshotNode;
  let containerd: Containerd;
  let docker: Docker["docker"];
  let stopDocker: Docker["stop"] | undefined;

  beforeAll(async () => {
    if (why !== undefined || version === undefined) return;
    node = await SnapshotNode.start();
    containerd = await startContainerd(version, node);
    ({ docker, stop: stopDocker } = await startDocker(containerd.address, join(node.folder, "docker")));
  });
  afterAll(async () => {
    await stopDocker?.();
    await containerd?.stop();
    await node?.stop();
  });

  test("a converted image is pulled without its layers, and run", async (context) => {
    if (why !== undefined) return context.skip(why);
    await docker("pull", "--quiet", node.reference("tools"));
    const read = node.registry.blobsRead();
    for (const layer of node.layersOf("tools")) expect(read).not.toContain(layer);
    const change = ["sh", "-c", "echo changed > /greeting; cat /greeting"];
    expect(await docker("run", "--rm", "--network", "none", node.reference("tools"), ...change)).toBe(
      "changed\n",
    );
    expect(await docker("run", "--rm", "--network", "none", node.reference("tools"))).toBe("hello again\n");
  });

  test("a container of a converted image can be committed to an image of its own", async (context) => {
    if (why !== undefined) return context.skip(why);
    const change = ["--name", "changed", node.reference("tools"), "sh", "-c", "echo kept > /kept"];
    await docker("run", "--network", "none", ...change);
    await docker("commit", "changed", "kept:v1");
    expect(await docker("run", "--rm", "--network", "none", "kept:v1", "cat", "/kept", "/greeting")).toBe(
      "kept\nhello again\n",
    );
    await docker("rm", "changed");
    await docker("rmi", "kept:v1");
  });

  test("images that are not converted are pulled as ever, whatever they share", async (context) => {
    if (why !== undefined) return context.skip(why);
    expect(await docker("run", "--rm", "--network", "none", node.reference("sibling"))).toBe(
      "from a sibling\n",
    );
    expect(await docker("run", "--rm", "--network", "none", node.reference("stranger"))).toBe("from afar\n");
  });

  test("nothing is left when the images are gone", async (context) => {
    if (why !== undefined) return context.skip(why);
    await docker("rmi", "--force", ...IMAGE_NAMES.map((image) => node.reference(image)));
    const left = (folder: string) => () => readdirSync(join(node.snapshotDirectory, folder));
    for (const folder of ["records", "snapshots", "images"]) await expect.poll(left(folder)).toEqual([]);
  });
});
