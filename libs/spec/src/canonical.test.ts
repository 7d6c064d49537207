import { describe, expect, test } from "vitest";
import {
  type Application,
  applicationSchema,
  canonicalApplication,
  diffApplications,
  digestApplication,
} from "./index.ts";

const model = { source: "bucket://models/m", name: "m", task: "chat" } as const;
const chat = { name: "chat", image: "pilotlight://worker", model, engine: { kind: "embedded" } } as const;
const logic = {
  name: "logic",
  image: "pilotlight://worker",
  engine: { kind: "process", command: ["b", "a"] },
} as const;
const make = (...deployments: object[]): Application =>
  applicationSchema.parse({ application: "x", deployments });

describe("the digest", () => {
  test("is the same for the same meaning", () => {
    const spelled = {
      ...chat,
      environment: {},
      resources: { memoryMb: 2048 },
      engine: { dtype: "bf16", kind: "embedded" },
    };
    const digest = digestApplication(make(chat, logic));
    expect(digest).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(digestApplication(make(logic, spelled))).toBe(digest);
  });
  test("differs for another meaning, however small", () => {
    const turned = { ...logic, engine: { kind: "process", command: ["a", "b"] } };
    expect(digestApplication(make(turned))).not.toBe(digestApplication(make(logic)));
    expect(digestApplication(make({ ...chat, environment: { A: "" } }))).not.toBe(
      digestApplication(make(chat)),
    );
  });
  test("is of a text that parses back to the same application", () => {
    const application = make(chat, logic);
    expect(applicationSchema.parse(JSON.parse(canonicalApplication(application)))).toEqual(application);
  });
});

describe("the difference", () => {
  test("names each field, and whether replicas have to be exchanged for it", () => {
    const after = {
      ...chat,
      engine: { kind: "embedded", dtype: "f32" },
      autoscaling: { replicasMax: 9 },
      environment: { A: "1" },
    };
    expect(diffApplications(make(chat), make(after))).toEqual([
      {
        kind: "changed",
        deployment: "chat",
        path: "autoscaling.replicasMax",
        before: "4",
        after: "9",
        needsNewReplicas: false,
      },
      {
        kind: "changed",
        deployment: "chat",
        path: "engine.dtype",
        before: '"bf16"',
        after: '"f32"',
        needsNewReplicas: true,
      },
      {
        kind: "changed",
        deployment: "chat",
        path: "environment.A",
        before: null,
        after: '"1"',
        needsNewReplicas: true,
      },
    ]);
  });
  test("names deployments that came and went", () => {
    expect(diffApplications(make(chat), make(logic))).toEqual([
      { kind: "deploymentRemoved", deployment: "chat" },
      { kind: "deploymentAdded", deployment: "logic" },
    ]);
    expect(diffApplications(make(chat), make(chat))).toEqual([]);
  });
});
