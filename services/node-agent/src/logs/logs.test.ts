import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LogLevel, timestampFromMs } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { seededRandom, seeds } from "@pilotlight/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseRecord } from "./log-line.ts";
import { openPositions } from "./positions.ts";
import { cutRecords } from "./records.ts";
import { globSources } from "./sources.ts";
import { type FileBatch, TailedFile } from "./tailed-file.ts";
import { type LogSource, LogTailer, type OutgoingBatch } from "./tailer.ts";

const LIMITS = { lineBytesMax: 200, recordsMax: 100 };
const records = (text: string, behind: "silence" | "end" | "more" = "silence", limits = LIMITS) =>
  cutRecords(Buffer.from(text), behind, limits).records;

const TRACES = {
  python: `Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f()\nValueError: no\n`,
  pythonChained: `Traceback (most recent call last):\n  File "a.py", line 1\nKeyError: 'x'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File "a.py", line 3\nValueError: no\n`,
  node: `file:///a.js:3\n  throw new Error("no")\n        ^\n\nError: no\n    at f (a.js:3:9)\n    at g (a.js:9:1)\n\nNode.js v24.0.0\n`,
  java: `java.lang.IllegalStateException: no\n\tat a.B.c(B.java:3)\nCaused by: java.io.IOException: disk\n\t... 2 more\n`,
  rust: `thread 'main' panicked at src/main.rs:2:5:\nindex out of bounds\nnote: run with RUST_BACKTRACE=1\n`,
};

describe("records", () => {
  test.each(Object.entries(TRACES))("a %s trace is one record between its neighbours", (_, trace) => {
    const cut = records(`before\n${trace}after\n`);
    expect(cut).toHaveLength(3);
    expect(cut[1]).toBe(
      trace
        .split("\n")
        .filter((line) => line.trim() !== "")
        .join("\n"),
    );
  });
  test("structured lines stand alone and never wait", () => {
    expect(records('{"a":1}\n{"a":2}\n', "end")).toEqual(['{"a":1}', '{"a":2}']);
    expect(records('{"a":1}\nplain\n', "end")).toEqual(['{"a":1}']);
    expect(records('{"a":1}\n  indented is no part of it\n')).toHaveLength(2);
  });
  test("a line without its end waits for it, except in silence", () => {
    expect(cutRecords(Buffer.from('{"a":1}\n{"b"'), "end", LIMITS)).toEqual({
      records: ['{"a":1}'],
      consumed: 8,
    });
    expect(records('{"a":1}\n{"b"', "silence")).toEqual(['{"a":1}', '{"b"']);
  });
  test("a long line is split between characters, and nothing is lost", () => {
    const text = "é".repeat(250);
    const cut = records(`${text}\n`);
    expect(cut.join("")).toBe(text);
    expect(cut.every((piece) => Buffer.byteLength(piece) <= LIMITS.lineBytesMax)).toBe(true);
  });
  test("endings of both kinds, blank lines and no lines", () => {
    expect(records("a\r\n\r\n\nb\n")).toEqual(["a", "b"]);
    expect(cutRecords(Buffer.from("\n\n"), "end", LIMITS)).toEqual({ records: [], consumed: 2 });
    expect(records("")).toEqual([]);
  });
  test.each(seeds(100))("bytes that were taken give the same records again, seed %i", (seed) => {
    const random = seededRandom(seed);
    const pieces = [
      "a line\n",
      '{"x":1}\n',
      "  more\n",
      "\n",
      ...Object.values(TRACES),
      "x".repeat(450),
      "\n",
      "Traceback (most recent call last):\n",
    ];
    const text = Array.from({ length: 40 }, () => pieces[Math.floor(random() * pieces.length)]).join("");
    const behind = (["silence", "end", "more"] as const)[Math.floor(random() * 3)] ?? "end";
    const bytes = Buffer.from(text).subarray(0, Math.floor(random() * text.length));
    const limits = { lineBytesMax: 100, recordsMax: 1 + Math.floor(random() * 20) };
    const { records: first, consumed } = cutRecords(bytes, behind, limits);
    expect(cutRecords(bytes.subarray(0, consumed), "silence", limits).records).toEqual(first);
    expect(first.length).toBeLessThanOrEqual(limits.recordsMax);
  });
});

describe("log lines", () => {
  const replica = { application: "chat", version: 2, deployment: "main", replicaId: "r1" };
  const origin = { service: "worker", stream: "stdout" as const, replica };
  const NOW = Date.parse("2026-11-21T10:00:00Z");
  test("in Docker's files, lines of our containers are taken as they were printed, those of others are left", () => {
    const inDocker = (log: string, more: object) =>
      parseRecord(
        JSON.stringify({ log, stream: "stdout", time: "2026-11-21T09:59:58.5Z", ...more }),
        { service: "abc", stream: "file", containerTag: "pilotlight" },
        NOW,
      );
    const ours = { attrs: { tag: "pilotlight/nats" } };
    expect(inDocker('{"service":"gateway","msg":"request","requestId":"q1"}\n', ours)).toMatchObject({
      service: "gateway",
      message: "request",
      requestId: "q1",
      at: timestampFromMs(NOW - 1_500),
    });
    expect(inDocker("Server is ready\n", ours)).toMatchObject({
      service: "nats",
      message: "Server is ready",
    });
    expect(inDocker("secret of another\n", { attrs: { tag: "other/nats" } })).toBeUndefined();
    expect(inDocker("secret of another\n", {})).toBeUndefined();
    const piece = '{"log":"secret of another, in a line so long that it was cut';
    expect(
      parseRecord(piece, { service: "abc", stream: "file", containerTag: "pilotlight" }, NOW),
    ).toBeUndefined();
  });
  test("a structured line gives its fields; whose it is, the agent knows better", () => {
    const record = JSON.stringify({
      time: "2026-11-21T09:59:59.123Z",
      level: "warn",
      service: "worker",
      component: "engine",
      msg: "slow",
      requestId: "q1",
      traceId: "t1",
      application: "forged",
      replicaId: "forged",
      durationMs: 7,
      error: { code: "x" },
    });
    expect(parseRecord(record, origin, NOW)).toEqual({
      at: timestampFromMs(NOW - 877),
      level: LogLevel.WARN,
      service: "worker",
      component: "engine",
      ...replica,
      requestId: "q1",
      traceId: "t1",
      message: "slow",
      fieldsJson: '{"durationMs":7,"error":{"code":"x"}}',
    });
  });
  test.each([
    ['{"level":50,"time":1763719199000,"msg":"m"}', LogLevel.ERROR],
    ['{"severity":"CRITICAL","message":"m"}', LogLevel.ERROR],
    ['{"level":"verbose","msg":"m"}', LogLevel.INFO],
    ["2026-11-21 10:00:00 WARNING vllm: slow", LogLevel.WARN],
    ["plain", LogLevel.INFO],
    ['{"cut": "of', LogLevel.INFO],
    ["[1,2]", LogLevel.INFO],
  ])("level of %s", (record, level) => {
    expect(parseRecord(record, origin, NOW)?.level).toBe(level);
  });
  test("a plain line on stderr is a warning, and keeps its text", () => {
    const line = parseRecord("oh no", { service: "worker", stream: "stderr", replica }, NOW);
    expect(line).toMatchObject({
      level: LogLevel.WARN,
      message: "oh no",
      at: timestampFromMs(NOW),
      ...replica,
    });
  });
  test("fields of strange types are kept as text, a senseless time is replaced", () => {
    const line = parseRecord(
      '{"time":"yesterday","msg":{"a":1},"requestId":7,"version":-3}',
      { service: "s", stream: "file" },
      NOW,
    );
    expect(line).toMatchObject({
      at: timestampFromMs(NOW),
      message: '{"a":1}',
      requestId: "7",
      version: 0,
      service: "s",
    });
  });
});

let home: string;
let path: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "pilotlight-tail-"));
  path = join(home, "a.log");
});
afterEach(() => rmSync(home, { recursive: true, force: true }));
const FILE_LIMITS = { ...LIMITS, batchBytesMax: 1_000, backlogBytesMax: 1e9 };
const open = (limits = FILE_LIMITS) =>
  new TailedFile("a", path, openPositions(join(home, "positions")), limits);
const json = (...numbers: number[]) => numbers.map((n) => `{"n":${n}}\n`).join("");

/** Takes everything that is there. */
function drain(file: TailedFile, over = true): FileBatch[] {
  const batches: FileBatch[] = [];
  for (let batch = file.next(over); batch !== undefined; batch = file.next(over)) {
    batches.push(batch);
    file.taken(batch);
  }
  return batches;
}
const numbers = (batches: readonly FileBatch[]) =>
  batches.flatMap(({ records: all }) => all.map((text) => JSON.parse(text).n as number));

describe("a followed file", () => {
  test("grows: each line once, over restarts", () => {
    const file = open();
    expect(file.next(true)).toBeUndefined();
    writeFileSync(path, json(1, 2));
    expect(numbers(drain(file))).toEqual([1, 2]);
    appendFileSync(path, json(3));
    expect(numbers(drain(file))).toEqual([3]);
    file.close();
    appendFileSync(path, json(4));
    expect(numbers(drain(open()))).toEqual([4]);
  });
  test("a batch that was not taken comes again the same, whatever was written meanwhile and however the agent died", () => {
    writeFileSync(path, json(1, 2));
    const before = open().next(true);
    appendFileSync(path, json(3));
    const after = open();
    expect(after.next(true)).toEqual(before);
    expect(after.next(true)).toEqual(before);
    expect(numbers(drain(after))).toEqual([1, 2, 3]);
  });
  test("is emptied: a new life, so that no offset means two things", () => {
    writeFileSync(path, json(1, 2));
    const file = open();
    const [first] = drain(file);
    truncateSync(path);
    appendFileSync(path, json(3));
    const [second] = drain(file);
    expect(numbers([second as FileBatch])).toEqual([3]);
    expect(second?.life).not.toBe(first?.life);
  });
  test("is rotated: the old one to its end, then the new one; also while the agent was away", () => {
    writeFileSync(path, json(1));
    const file = open();
    drain(file);
    appendFileSync(path, json(2));
    renameSync(path, `${path}.1`);
    writeFileSync(path, json(3));
    expect(numbers(drain(file))).toEqual([2, 3]);
    file.close();
    appendFileSync(path, json(4));
    renameSync(path, `${path}.2`);
    writeFileSync(path, json(5));
    expect(numbers(drain(open()))).toEqual([4, 5]);
  });
  test("is rotated several times while the agent was away: every file in its turn", () => {
    writeFileSync(path, json(1));
    const file = open();
    drain(file);
    file.close();
    for (let i = 1; i <= 3; i++) {
      appendFileSync(path, json(10 * i));
      utimesSync(path, i, i); // one rotation a second
      renameSync(path, `${path}.${4 - i}`);
      writeFileSync(path, json(10 * i + 1));
    }
    writeFileSync(`${path}.9.gz`, "packed");
    expect(numbers(drain(open()))).toEqual([10, 11, 20, 21, 30, 31]);
  });
  test("is another file of the same inode: read from its beginning", () => {
    writeFileSync(path, json(1, 2, 3));
    const file = open();
    const [first] = drain(file);
    file.close();
    writeFileSync(path, json(9, 8, 7, 6)); // same inode, other beginning, longer
    const batches = drain(open());
    expect(numbers(batches)).toEqual([9, 8, 7, 6]);
    expect(batches[0]?.life).not.toBe(first?.life);
  });
  test("a plain line waits one look for its trace", () => {
    writeFileSync(path, "Error: no\n");
    const file = open();
    expect(file.next(false)).toBeUndefined();
    appendFileSync(path, "    at f\n");
    expect(file.next(false)).toBeUndefined();
    expect(file.next(false)?.records).toEqual(["Error: no\n    at f"]);
  });
  test("has too much that cannot be shipped: the oldest is given up, the batch on its way is not", () => {
    const limits = { ...FILE_LIMITS, batchBytesMax: 80, backlogBytesMax: 400 };
    writeFileSync(path, json(...Array.from({ length: 100 }, (_, i) => 100 + i)));
    const file = open(limits);
    const pending = file.next(true);
    const dropped = file.dropBacklog();
    expect(dropped).toEqual({ from: pending?.end, to: 1_000 - 300 });
    expect(file.dropBacklog()).toBeUndefined();
    expect(file.next(true)).toEqual(pending);
    expect(numbers(drain(file))).toEqual([
      ...numbers([pending as FileBatch]),
      ...Array.from({ length: 30 }, (_, i) => 170 + i),
    ]);
  });
});

describe("the tailer", () => {
  const source = (over = false): LogSource => ({
    name: "a",
    path,
    origin: { service: "s", stream: "file" },
    over,
    owned: true,
  });
  const sent: OutgoingBatch[] = [];
  let failing: PlatformError | undefined;
  let over = false;
  const done: string[] = [];
  const make = (keepBytes = 1e9) =>
    new LogTailer({
      positions: openPositions(join(home, "positions")),
      limits: { ...FILE_LIMITS, batchBytesMax: 64 * 1024 },
      pollIntervalMs: 5,
      keepBytes,
      sources: () => [source(over)],
      send: async (batch) => {
        if (failing !== undefined) throw failing;
        sent.push(batch);
      },
      onDone: ({ name }) => done.push(name),
    });
  beforeEach(() => {
    sent.length = 0;
    done.length = 0;
    failing = undefined;
    over = false;
  });
  const fields = () =>
    sent.flatMap(({ lines }) => lines.map(({ fieldsJson }) => JSON.parse(fieldsJson ?? "{}").n as number));

  test("while the bus is full lines wait in the file; then they go, each once", async () => {
    writeFileSync(path, json(1));
    const tailer = make();
    tailer.start();
    await expect.poll(fields).toEqual([1]);
    failing = new PlatformError("resourceExhausted", "maximum bytes exceeded");
    appendFileSync(path, json(2, 3));
    await new Promise((resolve) => setTimeout(resolve, 100));
    appendFileSync(path, json(4));
    failing = undefined;
    await expect.poll(fields, { timeout: 5_000 }).toEqual([1, 2, 3, 4]);
    const [first, second] = sent;
    expect(second?.source).toBe(first?.source);
    expect([first?.offset, first?.offsetEnd, second?.offset]).toEqual([0, 8, 8]);
    await tailer.close(1_000);
  });
  test("a file that is over is shipped to its last byte and let go", async () => {
    writeFileSync(path, `${json(1)}{"n":2}`);
    const tailer = make();
    tailer.start();
    await expect.poll(fields).toEqual([1, 2]);
    expect(done).toEqual([]);
    over = true;
    await expect.poll(() => done.length).toBeGreaterThan(0);
    await tailer.close(1_000);
  });
  test("a stop ships what is there", async () => {
    const tailer = make();
    writeFileSync(path, json(1, 2));
    await tailer.close(1_000);
    expect(fields()).toEqual([1, 2]);
  });
  test("what was shipped takes no room on disk, and offsets go on", async () => {
    const block = json(...Array.from({ length: 5_000 }, (_, i) => 100_000 + i));
    const tailer = make(16 * 1024); // freed a MiB at a time
    tailer.start();
    for (let i = 0; i < 20; i++) appendFileSync(path, block);
    const size = statSync(path).size;
    await expect.poll(() => sent.at(-1)?.offsetEnd, { timeout: 20_000 }).toBe(size);
    await expect.poll(() => statSync(path).blocks * 512).toBeLessThan(size * 0.8);
    appendFileSync(path, json(7));
    await expect.poll(() => fields().at(-1)).toBe(7);
    expect(fields()).toHaveLength(100_001);
    await tailer.close(1_000);
    expect(readFileSync(path).length).toBe(size + 8);
  });
});

test("a glob names files; Docker's are known by their name", () => {
  for (const name of [
    "gateway.log",
    "control.log",
    "gateway.log.1",
    "x.txt",
    "0af3-json.log",
    "0af3-json.log.1",
  ])
    writeFileSync(join(home, name), "");
  expect(
    globSources(join(home, "*.log"), "pilotlight").map(({ path: found, origin }) => [
      found,
      origin.service,
      origin.containerTag,
    ]),
  ).toEqual([
    [join(home, "0af3-json.log"), "0af3-json", "pilotlight"],
    [join(home, "control.log"), "control", undefined],
    [join(home, "gateway.log"), "gateway", undefined],
  ]);
  expect(globSources(join(home, "nowhere", "*.log"), "pilotlight")).toEqual([]);
  expect(existsSync(join(home, "nowhere"))).toBe(false);
});
