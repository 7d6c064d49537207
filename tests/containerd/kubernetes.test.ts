// A real kubelet on the node agent's snapshots. Needs root, and a program that can start a cluster with a real node whose containerd
// uses a given snapshotter; PILOTLIGHT_KUBE_CLUSTER names it:
//   PROGRAM --name N up --real-node --snapshotter NAME=SOCKET      the node is called real-N
//   PROGRAM --name N kubectl ARGS…
//   PROGRAM --name N down
import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { runCommand } from "@pilotlight/servers";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { containerHindrance, type ImageName, SnapshotNode } from "./node.ts";

const program = process.env.PILOTLIGHT_KUBE_CLUSTER;
const why =
  (await containerHindrance()) ??
  (program === undefined ? "PILOTLIGHT_KUBE_CLUSTER names no program that starts a cluster" : undefined);
/** A kubelet waits longer and longer before it tries again. */
const READY_TIMEOUT = "--timeout=120s";
const TEST_TIMEOUT_MS = 180_000;

describe("Kubernetes", () => {
  let node: SnapshotNode;
  let name = "";

  const cluster = (...args: string[]) => runCommand(program ?? "", ["--name", name, ...args]);
  const kubectl = (...args: string[]) => cluster("kubectl", ...args);
  const startPod = async (pod: string, image: ImageName) => {
    const file = join(node.folder, `${pod}.json`);
    await writeFile(file, JSON.stringify(podOf(pod, `real-${name}`, node.reference(image))));
    await kubectl("apply", "--filename", file);
    await kubectl("wait", "--for=condition=Ready", `pod/${pod}`, READY_TIMEOUT);
    return kubectl("exec", pod, "--", "cat", "/greeting");
  };

  beforeAll(async () => {
    if (why !== undefined) return;
    node = await SnapshotNode.start();
    name = basename(node.folder).toLowerCase();
    await cluster("up", "--real-node", "--snapshotter", `pilotlight=${node.socket}`);
  });
  afterAll(async () => {
    if (why !== undefined) return;
    await cluster("down");
    await node.stop();
  });

  test(
    "a pod of a converted image starts without any of its layers being fetched",
    async (context) => {
      if (why !== undefined) return context.skip(why);
      expect(await startPod("converted", "tools")).toBe("hello again\n");
      const read = node.registry.blobsRead();
      for (const layer of node.layersOf("tools")) expect(read).not.toContain(layer);
    },
    TEST_TIMEOUT_MS,
  );

  test(
    "pods of other images start too, and the converter is asked for those",
    async (context) => {
      if (why !== undefined) return context.skip(why);
      expect(await startPod("sibling", "sibling")).toBe("from a sibling\n");
      expect(await startPod("stranger", "stranger")).toBe("from afar\n");
      expect(node.asked).toEqual(expect.arrayContaining([node.pinned("sibling"), node.pinned("stranger")]));
    },
    TEST_TIMEOUT_MS,
  );

  test(
    "the manifests of deploy are what the API server takes",
    async (context) => {
      if (why !== undefined) return context.skip(why);
      await kubectl("create", "namespace", "pilotlight-nodes");
      for (const file of ["containerd/daemonset.yaml", "kubernetes/image-seed.yaml"]) {
        const path = join(import.meta.dirname, "../../deploy", file);
        const answer = await kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", path);
        expect(answer).toContain("daemonset.apps/");
      }
    },
    TEST_TIMEOUT_MS,
  );

  test(
    "pods outlive a killed agent, and new ones start when it is back",
    async (context) => {
      if (why !== undefined) return context.skip(why);
      await node.killAgent();
      expect(await kubectl("exec", "converted", "--", "cat", "/greeting")).toBe("hello again\n");
      await node.startAgent();
      expect(await startPod("after-kill", "tools")).toBe("hello again\n");
    },
    TEST_TIMEOUT_MS,
  );
});

const podOf = (name: string, nodeName: string, image: string) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name },
  spec: {
    nodeName,
    terminationGracePeriodSeconds: 0,
    automountServiceAccountToken: false,
    containers: [{ name: "main", image, command: ["sleep", "3600"] }],
  },
});
