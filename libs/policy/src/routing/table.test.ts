import { describe, expect, test } from "vitest";
import { createRandom } from "../random.ts";
import {
  buildRoutingTable,
  type RoutableReplica,
  type RouteOptions,
  type RoutingTable,
  route,
} from "./index.ts";

const replica = (replicaId: string, outstanding = 0, concurrencyMax = 4): RoutableReplica => ({
  replicaId,
  version: replicaId.split("-")[0] ?? "",
  concurrencyMax,
  outstanding,
});
const half = [
  { version: "v1", weight: 0.5 },
  { version: "v2", weight: 0.5 },
];
const choose = (table: RoutingTable, options: Partial<RouteOptions> = {}) => {
  const answer = route(table, { random: createRandom(1), ...options });
  return answer.kind === "replica" ? answer.replica.replicaId : answer.kind;
};

describe("the version", () => {
  test("gets its exact share over a few requests", () => {
    const weights = [
      { version: "v1", weight: 0.9 },
      { version: "v2", weight: 0.1 },
    ];
    const table = buildRoutingTable(weights, [replica("v1-a", 0, 1000), replica("v2-a", 0, 1000)]);
    const chosen = Array.from({ length: 20 }, () => choose(table));
    expect(chosen.filter((id) => id === "v2-a")).toHaveLength(2);
  });
  test("without a ready replica gets nothing, and nothing is lost by it", () => {
    const table = buildRoutingTable(half, [replica("v2-a")]);
    expect(Array.from({ length: 4 }, () => choose(table))).toEqual(Array(4).fill("v2-a"));
  });
  test("that is full or was tried leaves its requests to another one", () => {
    const table = buildRoutingTable([{ version: "v1", weight: 1 }], [replica("v1-a", 4), replica("v2-a")]);
    expect(choose(table)).toBe("v2-a");
    expect(choose(table, { excluded: new Set(["v2-a"]) })).toBe("saturated");
  });
  test("of weight zero serves only when nobody else can", () => {
    const weights = [
      { version: "v1", weight: 1 },
      { version: "v2", weight: 0 },
    ];
    const replicas = [replica("v2-a"), replica("v1-a")];
    const table = buildRoutingTable(weights, replicas);
    expect(Array.from({ length: 4 }, () => choose(table))).toEqual(Array(4).fill("v1-a"));
    expect(choose(table, { excluded: new Set(["v1-a"]) })).toBe("v2-a");
  });
  test("can be pinned, as long as it is there", () => {
    const table = buildRoutingTable(half, [replica("v1-a"), replica("v2-a", 4)]);
    expect(choose(table, { version: "v1" })).toBe("v1-a");
    expect(choose(table, { version: "v2" })).toBe("saturated");
    expect(choose(table, { version: "gone" })).toBe("v1-a");
  });
});

describe("the replica", () => {
  test("is the less loaded of two, relative to what it can take", () => {
    const table = buildRoutingTable(
      [{ version: "v1", weight: 1 }],
      [replica("v1-a", 3, 4), replica("v1-b", 4, 16)],
    );
    for (let seed = 0; seed < 20; seed++) expect(choose(table, { random: createRandom(seed) })).toBe("v1-b");
  });
  test("is never a full or an excluded one while another is free", () => {
    const replicas = [...Array(30).keys()].map((i) => replica(`v1-${i}`, i === 17 ? 3 : 4));
    const table = buildRoutingTable([{ version: "v1", weight: 1 }], replicas);
    for (let seed = 0; seed < 20; seed++) expect(choose(table, { random: createRandom(seed) })).toBe("v1-17");
    expect(choose(table, { excluded: new Set(["v1-17"]) })).toBe("saturated");
  });
  test("there is none when all were tried", () => {
    const table = buildRoutingTable([{ version: "v1", weight: 1 }], [replica("v1-a")]);
    expect(choose(table, { excluded: new Set(["v1-a"]) })).toBe("none");
    expect(choose(buildRoutingTable([], []))).toBe("none");
  });
  test("load evens out: two choices keep replicas closer together than one", () => {
    const random = createRandom(3);
    const replicas = [...Array(20).keys()].map((i) => replica(`v1-${i}`, 0, 1000));
    const table = buildRoutingTable([{ version: "v1", weight: 1 }], replicas);
    for (let i = 0; i < 2000; i++) {
      const answer = route(table, { random });
      if (answer.kind === "replica") answer.replica.outstanding++;
    }
    const loads = replicas.map(({ outstanding }) => outstanding);
    expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(6);
  });
});
