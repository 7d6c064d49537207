import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { formatProblem, type Problem, parseApplication } from "./index.ts";

const problemsOf = (text: string): Problem[] => {
  const parsed = parseApplication(text, { fileName: "app.yaml" });
  return "problems" in parsed ? parsed.problems : [];
};
const shown = (text: string) => problemsOf(text).map((problem) => formatProblem(problem, "app.yaml"));

const MINIMAL = `application: chat
deployments:
  - name: chat
    image: pilotlight://worker
    model: { source: bucket://models/m, name: m, task: chat }
    engine: { kind: embedded }
`;

describe("a good file", () => {
  test.each(["chat/app.yaml", "chat/app-v2.yaml", "embeddings/app.yaml"])("examples/%s is valid", (name) => {
    const text = readFileSync(new URL(`../../../examples/${name}`, import.meta.url), "utf8");
    expect(shown(text)).toEqual([]);
    expect(text).toContain("# yaml-language-server: $schema=../../libs/spec/application.schema.json");
  });

  test("what is left out has its default, down to the gates", () => {
    const parsed = parseApplication(MINIMAL, { fileName: "app.yaml" });
    if (!("application" in parsed)) throw new Error(JSON.stringify(parsed.problems));
    const [deployment] = parsed.application.deployments;
    expect(deployment?.resources).toEqual({ accelerators: 1, memoryMb: 2048 });
    expect(deployment?.rollout).toMatchObject({ surge: 1, gates: { samplesMin: 20, falseAlarmMax: 0.01 } });
    expect(deployment?.environment).toEqual({});
  });

  test("a compile cache names its variables, each once", () => {
    const withCache = (variables: string) => `${MINIMAL}    compileCache: { variables: [${variables}] }\n`;
    const parsed = parseApplication(withCache("TRITON_CACHE_DIR"), { fileName: "app.yaml" });
    if (!("application" in parsed)) throw new Error(JSON.stringify(parsed.problems));
    expect(parsed.application.deployments[0]?.compileCache).toEqual({
      variables: ["TRITON_CACHE_DIR"],
      sizeMaxMb: 2048,
      key: "",
    });
    expect(shown(withCache("A, A")).join()).toContain("names a variable twice");
    expect(shown(withCache("a/b")).join()).toContain("must be a variable name");
  });

  test("anchors and aliases work, as YAML people expect", () => {
    const text = MINIMAL.replace("engine: {", "environment: &e { A: x }\n    engine: {").concat(
      "  - name: logic\n    image: pilotlight://worker\n    engine: { kind: process, command: [run], env: *e }\n",
    );
    expect(shown(text)).toEqual([]);
  });
});

describe("problems", () => {
  test("all are reported at once, each at its line and column, with what to do", () => {
    const text = `application: Chat
deployments:
  - name: a
    image: ubuntu
    engin: { kind: embedded }
    engine: { kind: embeded }
    resources: { accelerators: 1.5 }
    autoscaling: { replicasMin: 5, replicasMax: 2, target: 1 }
  - name: a
    image: pilotlight://worker
    engine: { kind: embedded, dtype: bf17, threds: 3 }
    environment: { A: 3, "b c": x }
    model: { source: "s3x://a", name: m }
`;
    expect(shown(text)).toEqual([
      "app.yaml:1:14: application: must be lower-case letters, digits and inner hyphens (a DNS label)",
      'app.yaml:4:12: deployments[0].image: "ubuntu" names no registry; write it out, e.g. docker.io/library/ubuntu',
      'app.yaml:5:5: deployments[0].engin: unknown field "engin"\n  Did you mean "engine"?',
      'app.yaml:6:21: deployments[0].engine.kind: must be "embedded" or "process"',
      "app.yaml:7:32: deployments[0].resources.accelerators: must be a fraction below 1 in steps of 0.01 (part of one device), or a whole number",
      "app.yaml:8:33: deployments[0].autoscaling.replicasMin: is 5, above replicasMax 2\n  Lower replicasMin or raise replicasMax.",
      'app.yaml:8:52: deployments[0].autoscaling.target: unknown field "target"\n  Allowed here: replicasMin, replicasMax, targetInFlight, scaleUpDelayMs, scaleDownDelayMs, scaleToZeroDelayMs.',
      'app.yaml:9:11: deployments[1].name: "a" is also the name of deployments[0]\n  Give each deployment a name of its own.',
      'app.yaml:11:38: deployments[1].engine.dtype: must be "bf16" or "f32", not "bf17"\n  Did you mean "bf16"?',
      'app.yaml:11:44: deployments[1].engine.threds: unknown field "threds"\n  Did you mean "threads"?',
      'app.yaml:12:23: deployments[1].environment.A: must be text, not 3\n  Put it in quotes: "3".',
      "app.yaml:12:26: deployments[1].environment.b c: the name must be a variable name: letters, digits, underscores",
      'app.yaml:13:12: deployments[1].model.task: is missing; "chat" or "embeddings" is needed',
      'app.yaml:13:22: deployments[1].model.source: "s3x://" is not supported; use one of bucket://, s3://, gs://, az://, https://, http://, hf://, file://',
    ]);
  });

  test.each([
    ["", "1:1", "is empty"],
    ["# only a comment\n", "1:1", "is empty"],
    ["- 1\n", "1:1", "must be a mapping, not a list"],
    ["application: x\n\tdeployments: []\n", "2:1", "Tabs are not allowed"],
    ["application: a: b\n", "1:14", "Nested mappings"],
    ["application: [x\n", "2:1", "Flow sequence"],
    ["a: 1\n---\nb: 2\n", "2:1", "multiple documents"],
    ["application: x\napplication: y\n", "2:1", '"application" stands here twice'],
    ["? [a]\n: b\n", "1:3", "a key must be plain text"],
    ["a: *nothing\n", "1:4", "refers to itself or to nothing"],
    ["a: &a [*a]\n", "1:8", "refers to itself or to nothing"],
  ])("syntax: %j is refused at %s", (text, place, message) => {
    const found = problemsOf(text).find((problem) => problem.message.includes(message));
    expect(found, JSON.stringify(problemsOf(text))).toBeDefined();
    expect(`${found?.line}:${found?.column}`).toBe(place);
  });

  test.each([
    ["engine: { kind: embedded }", "    model:.*\n", "the embedded engine needs a model"],
    ["engine: { kind: embedded, kvTokensMax: 64 }", "", "the longest sequence would not fit"],
    ["engine: { kind: embedded, tensorParallel: 0 }", "", "deployments[0].engine.tensorParallel"],
    [
      "engine: { kind: process, command: [x], readyTimeoutMs: 900001 }",
      "",
      "above the replica's startTimeoutMs",
    ],
    ["engine: { kind: process, command: [] }", "", "must have at least 1 entries"],
    ["engine: { kind: process, command: [x], port: 70000 }", "", "port"],
  ])("fields that contradict each other: %s", (engine, without, message) => {
    const text = MINIMAL.replace("engine: { kind: embedded }", engine).replace(
      new RegExp(without || "$^"),
      "",
    );
    expect(shown(text).join("\n")).toContain(message);
  });

  test("models that make embeddings are not divided between ranks", () => {
    const text = MINIMAL.replace("task: chat", "task: embeddings").replace(
      "kind: embedded",
      "kind: embedded, tensorParallel: 2",
    );
    expect(shown(text)).toEqual([
      "app.yaml:6:47: deployments[0].engine.tensorParallel: is 2, and models that make embeddings are not divided\n  Leave tensorParallel out.",
    ]);
  });

  test("only so many are listed, and the rest is counted", () => {
    const text = Array.from({ length: 300 }, (_, i) => `k${i}: 1`).join("\n");
    const parsed = parseApplication(text, { fileName: "app.yaml", problemsMax: 10 });
    if (!("problems" in parsed)) throw new Error("valid");
    expect(parsed.problems).toHaveLength(11);
    expect(parsed.problems.at(-1)?.message).toBe("292 more problems");
  });
});

describe("hostile text", () => {
  const laughs = Array.from(
    { length: 9 },
    (_, i) =>
      `a${i}: &a${i} [${Array.from({ length: 9 }, () => (i === 0 ? "lol" : `*a${i - 1}`)).join(",")}]`,
  ).join("\n");

  test.each([
    ["a billion laughs", laughs, "more than 20000 values"],
    ["deep nesting", `a: ${"[".repeat(50)}${"]".repeat(50)}`, "nested deeper than 32 levels"],
    ["nesting beyond the stack", "[".repeat(100_000), "nested deeper than 32 levels"],
    ["a sequence of sequences", "- ".repeat(50_000), "nested deeper than 32 levels"],
    [
      "many aliases",
      `a: &a x\n${Array.from({ length: 101 }, (_, i) => `b${i}: *a`).join("\n")}`,
      "more than 100 aliases",
    ],
    ["a long text", "x".repeat(300_000), "the limit is 262144"],
  ])("%s is refused", (_, text, message) => {
    expect(problemsOf(text).map((problem) => problem.message)).toEqual([expect.stringContaining(message)]);
  });

  test("inherited names are no fields", () => {
    const text = `${MINIMAL}__proto__: { polluted: true }\nconstructor: 1\n`;
    expect(problemsOf(text).map(({ path }) => path)).toEqual(["__proto__", "constructor"]);
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });
});
