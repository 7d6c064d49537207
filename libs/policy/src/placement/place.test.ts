import { describe, expect, test } from "vitest";
import { type PlacementNode, type PlacementRequest, place } from "./index.ts";

const node = (nodeId: string, free: number[], changes: Partial<PlacementNode> = {}): PlacementNode => ({
  nodeId,
  phase: "ready",
  devices: free.map((share, index) => ({ index, kind: "h100", free: share })),
  memoryFreeMb: 1000,
  siblings: 0,
  ...changes,
});
const request = (accelerators: number, changes: Partial<PlacementRequest> = {}): PlacementRequest => ({
  accelerators,
  memoryMb: 100,
  acceleratorKind: null,
  avoidNodeIds: [],
  ...changes,
});
const where = (...args: Parameters<typeof place>) => {
  const placement = place(...args);
  return placement.kind === "placed"
    ? `${placement.nodeId}:${placement.devices.map(({ index }) => index).join(",")}`
    : placement.why;
};

describe("place", () => {
  test("a fraction goes where least is left, so that whole devices stay whole", () => {
    expect(where(request(0.5), [node("a", [1, 0.5, 0.75]), node("b", [1, 1])], "pack")).toBe("a:1");
  });
  test("whole devices need whole devices, on one node", () => {
    expect(where(request(2), [node("a", [1, 0.9]), node("b", [0.5, 1, 1])], "pack")).toBe("b:1,2");
    expect(where(request(2), [node("a", [1]), node("b", [1])], "pack")).toContain("2 out of accelerators");
  });
  test("ten tenths fit on one device, an eleventh does not", () => {
    let free = 1;
    for (let i = 0; i < 10; i++) {
      expect(place(request(0.1), [node("a", [free])], "pack").kind).toBe("placed");
      free -= 0.1;
    }
    expect(place(request(0.1), [node("a", [free])], "pack").kind).toBe("unplaceable");
  });
  test("only ready nodes are taken", () => {
    const nodes = (["cordoned", "draining", "lost"] as const).map((phase) => node(phase, [1], { phase }));
    expect(where(request(1), nodes, "pack")).toBe(
      "1 accelerators and 100 MiB of memory needed; of 3 nodes: 3 not ready",
    );
  });
  test("work without accelerators stays off accelerator nodes while it can", () => {
    const cpu = node("z", []);
    expect(where(request(0), [node("a", [1]), cpu], "pack")).toBe("z:");
    expect(where(request(0), [node("a", [1]), { ...cpu, memoryFreeMb: 10 }], "pack")).toBe("a:");
  });
  test("spread keeps replicas of one deployment apart, pack fills a node first", () => {
    const nodes = [node("a", [1, 1], { siblings: 1 }), node("b", [1, 1, 1, 1])];
    expect(where(request(1), nodes, "spread")).toBe("b:0");
    expect(where(request(1), nodes, "pack")).toBe("a:0");
  });
  test("a node that failed lately is the last choice", () => {
    const nodes = [node("a", [1]), node("b", [1, 1])];
    expect(where(request(1, { avoidNodeIds: ["a"] }), nodes, "pack")).toBe("b:0");
    expect(where(request(1, { avoidNodeIds: ["a", "b"] }), nodes, "pack")).toBe("a:0");
  });
  test("the kind is respected, and its absence is said", () => {
    expect(where(request(1, { acceleratorKind: "a100" }), [node("a", [1])], "pack")).toContain(
      "1 without the kind of accelerator",
    );
    expect(where(request(1), [], "pack")).toContain("there is no node");
  });
  test("the answer does not depend on the order of nodes", () => {
    const nodes = [node("c", [1, 0.5]), node("a", [1, 0.5]), node("b", [1, 0.5])];
    expect(where(request(0.5), nodes, "pack")).toBe("a:1");
    expect(where(request(0.5), nodes.toReversed(), "pack")).toBe("a:1");
  });
});
