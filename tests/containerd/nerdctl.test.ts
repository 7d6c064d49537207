// nerdctl on the node agent's snapshots, as people type it. Needs root, runc, nerdctl and containerd (PILOTLIGHT_CONTAINERD names
// directories beside PATH).
import { join } from "node:path";
import { runCommand } from "@pilotlight/servers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Containerd, findContainerds, findProgram, RELEASES, startContainerd } from "./containerd.ts";
import { containerHindrance, type ImageName, SnapshotNode } from "./node.ts";

const COMMAND_TIMEOUT_MS = 60_000;
const TEST_TIMEOUT_MS = 120_000;
/** containerd looks for a plug-in that went away once in a while only. */
const RECONNECTED = { timeout: 90_000, interval: 500 };

const program = findProgram("nerdctl");
const containerds = await findContainerds();
const hindrance =
  (await containerHindrance()) ?? (program === undefined ? "nerdctl is not installed" : undefined);

describe.each(RELEASES)("nerdctl with $name", { timeout: TEST_TIMEOUT_MS }, ({ name, fits }) => {
  const release = containerds.find(fits);
  const why = hindrance ?? (release === undefined ? `${name} is not installed` : undefined);
  let node: SnapshotNode;
  let containerd: Containerd;

  beforeAll(async () => {
    if (why !== undefined || release === undefined) return;
    node = await SnapshotNode.start();
    containerd = await startContainerd(release, node);
  });
  afterAll(async () => {
    await containerd?.stop();
    await node?.stop();
  });

  const nerdctl = (...args: string[]) => {
    const own = ["--address", containerd.address, "--data-root", join(node.folder, "nerdctl")];
    const options = [...own, "--insecure-registry", "--snapshotter", "pilotlight"];
    return runCommand(program ?? "", [...options, ...args], { timeoutMs: COMMAND_TIMEOUT_MS });
  };
  const run = (image: ImageName, ...command: string[]) =>
    nerdctl("run", "--rm", "--quiet", "--network", "none", node.reference(image), ...command);

  test("a converted image is run by its ordinary name, without any of its layers", async (context) => {
    if (why !== undefined) return context.skip(why);
    expect(await run("tools")).toBe("hello again\n");
    const read = node.registry.blobsRead();
    for (const layer of node.layersOf("tools")) expect(read).not.toContain(layer);
  });

  test("what a container writes is its own", async (context) => {
    if (why !== undefined) return context.skip(why);
    expect(await run("tools", "sh", "-c", "echo changed > /greeting; cat /greeting")).toBe("changed\n");
    expect(await run("tools")).toBe("hello again\n");
  });

  test("images that are not converted are pulled as ever, whatever they share", async (context) => {
    if (why !== undefined) return context.skip(why);
    expect(await run("sibling")).toBe("from a sibling\n");
    expect(await run("stranger")).toBe("from afar\n");
    expect(node.registry.blobsRead()).toEqual(expect.arrayContaining(node.layersOf("stranger")));
  });

  test("a container goes on when the agent is killed, and is removed when it is back", async (context) => {
    if (why !== undefined) return context.skip(why);
    const tools = node.reference("tools");
    await nerdctl("run", "--detach", "--name", "long", "--network", "none", tools, "sleep", "600");
    await node.killAgent();
    expect(await nerdctl("exec", "long", "cat", "/greeting")).toBe("hello again\n");
    await node.startAgent();
    await expect.poll(() => run("tools").catch(String), RECONNECTED).toBe("hello again\n");
    await nerdctl("rm", "--force", "long");
    const images = (["tools", "sibling", "stranger"] as const).map((image) => node.reference(image));
    await nerdctl("rmi", ...images);
    await expect
      .poll(() => node.mounts().filter((path) => path.startsWith(node.snapshotDirectory)), RECONNECTED)
      .toEqual([]);
  });
});
