import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { readPackageGraph, servicesTouchedBy } from "./dependents.ts";

const graph = {
  folders: new Map([
    ["@x/errors", "libs/errors"],
    ["@x/bus", "libs/bus"],
    ["@x/spec", "libs/spec"],
    ["@x/gateway", "services/gateway"],
    ["@x/control", "services/control"],
  ]),
  dependencies: new Map([
    ["@x/errors", []],
    ["@x/bus", ["@x/errors"]],
    ["@x/spec", []],
    ["@x/gateway", ["@x/bus"]],
    ["@x/control", ["@x/bus", "@x/spec"]],
  ]),
};

describe("a change restarts", () => {
  test("its own service and no other", () =>
    expect(servicesTouchedBy(graph, "services/gateway/src/main.ts")).toEqual(["gateway"]));
  test("every service that stands on the library, however far below", () =>
    expect(servicesTouchedBy(graph, "libs/errors/src/index.ts")).toEqual(["control", "gateway"]));
  test("only those", () => expect(servicesTouchedBy(graph, "libs/spec/src/schema.ts")).toEqual(["control"]));
  test("nothing for files outside of packages", () =>
    expect(servicesTouchedBy(graph, "README.md")).toEqual([]));
});

test("the real packages are found", () => {
  const real = readPackageGraph(join(import.meta.dirname, "../../.."));
  expect(servicesTouchedBy(real, "libs/bus/src/outbox.ts")).toEqual(
    expect.arrayContaining(["control", "rollout", "autoscaler"]),
  );
});
