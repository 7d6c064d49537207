import { existsSync, readdirSync } from "node:fs";
import { readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LogLevel, type LogLine, timestampFromMs } from "@pilotlight/contracts";
import { startTestNats, type TestServer } from "@pilotlight/testing";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { line, TestLogs } from "./testing/harness.ts";

let nats: TestServer;
let logs: TestLogs;
let run = 0;
/** An application of this test alone: the stream lives as long as the server. */
let application: string;

const HOUR_MS = 3_600_000;
/** What one search gives at most. */
const SEARCH_LINES_MAX = 100_000;
/** The segments of an application. */
const segments = async (of = application): Promise<string[]> =>
  (await readdir(join(logs.bucket, "logs"), { recursive: true }).catch(() => [])).filter(
    (name) => name.endsWith(".parquet") && name.includes(`/app=${encodeURIComponent(of)}/`),
  );
/** Waits for a state that needs a turn of the housekeeping, or a delivery. */
const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 20_000, interval: 50 });

beforeAll(async () => {
  nats = await startTestNats();
});
afterAll(() => nats.stop());
beforeEach(async () => {
  application = `chat-${++run}`;
  logs = await TestLogs.open(nats.url);
});
afterEach(() => logs.close());

describe("searching", () => {
  test("every filter finds its lines, in the journal and in segments alike", async () => {
    await logs.start({ SEGMENT_AGE_MS: "100" });
    const at = Date.now() - 5_000;
    const time = (i: number) => timestampFromMs(at + i * 100);
    const own = { application, version: 3, deployment: "main", replicaId: `${application}-r1` };
    await logs.say([
      line("zero", {
        ...own,
        at: time(0),
        level: LogLevel.DEBUG,
        requestId: `r1-${run}`,
        component: "engine",
        traceId: "t",
      }),
      line("one of the gateway", { at: time(1), service: "gateway", requestId: `r1-${run}` }),
      line("two", {
        ...own,
        at: time(2),
        version: 4,
        level: LogLevel.ERROR,
        fieldsJson: '{"Code":"Überlauf"}',
      }),
      line("three", { ...own, at: time(3), deployment: "other", requestId: `r2-${run}` }),
      line("four", { application: `${application}-b`, at: time(4), requestId: `r1-${run}` }),
    ]);
    const all = { application, text: "" };
    const check = async () => {
      expect(await logs.messages(all)).toEqual(["zero", "two", "three"]);
      expect(await logs.messages({ ...all, version: 4 })).toEqual(["two"]);
      expect(await logs.messages({ ...all, deployment: "other" })).toEqual(["three"]);
      expect(await logs.messages({ replicaId: own.replicaId })).toEqual(["zero", "two", "three"]);
      expect(await logs.messages({ ...all, levelMin: LogLevel.WARN })).toEqual(["two"]);
      expect(await logs.messages({ ...all, levelMin: LogLevel.INFO })).toEqual(["two", "three"]);
      expect(await logs.messages({ ...all, text: "überLAUF" })).toEqual(["two"]);
      expect(await logs.messages({ ...all, since: time(1), until: time(2) })).toEqual(["two"]);
      expect(await logs.messages({ ...all, limit: 2 })).toEqual(["two", "three"]);
      expect(await logs.messages({ requestId: `r1-${run}` })).toEqual(["zero", "one of the gateway", "four"]);
      expect(await logs.messages({ application, requestId: `r1-${run}` })).toEqual([
        "zero",
        "one of the gateway",
      ]);
      expect(await logs.messages({ requestId: `r1-${run}`, service: "gateway" })).toEqual([
        "one of the gateway",
      ]);
      expect(await logs.messages({ requestId: "nobody's" })).toEqual([]);
    };
    await eventually(() => logs.messages(all)).toHaveLength(3);
    await check();
    await eventually(() => segments()).toHaveLength(1);
    await check();
    const [zero] = await logs.search({ requestId: `r1-${run}` });
    expect(zero).toMatchObject({
      ...own,
      level: LogLevel.DEBUG,
      component: "engine",
      traceId: "t",
      at: time(0),
    });
  });
  test("following shows each line once, whenever it comes", async () => {
    await logs.start({ SEGMENT_AGE_MS: "100" });
    const stop = new AbortController();
    const seen: string[] = [];
    const say = async (from: number, to: number) => {
      for (let i = from; i < to; i++) await logs.say([line(`n${i}`, { application })]);
    };
    const saying = say(0, 60);
    const following = (async () => {
      for await (const page of logs.door.searchLogs({ application, follow: true }, { signal: stop.signal }))
        seen.push(...page.lines.map(({ message }) => message));
    })();
    await saying;
    await say(60, 80);
    await eventually(() => seen.length).toBe(80);
    stop.abort();
    await following.catch(() => {});
    expect(seen).toEqual(Array.from({ length: 80 }, (_, i) => `n${i}`));
  });
  test("what cannot be meant is refused with its field", async () => {
    await logs.start();
    await expect(logs.search({ limit: 200_000 })).rejects.toMatchObject({
      code: "invalidArgument",
      field: "limit",
    });
    const [since, until] = [timestampFromMs(2_000), timestampFromMs(1_000)];
    await expect(logs.search({ since, until })).rejects.toMatchObject({
      code: "invalidArgument",
      field: "since",
    });
    await expect(logs.search({ text: "x".repeat(2_000) })).rejects.toMatchObject({
      code: "invalidArgument",
      field: "text",
    });
  });
  test("text is data: quotes, wildcards and SQL find themselves only", async () => {
    await logs.start({ SEGMENT_AGE_MS: "100" });
    const name = `${application}'/..%`;
    const odd = ["it's 100%", "a_b", "'; drop table x; --", "nul\0byte", "\u{1F525} 火"];
    await logs.say(odd.map((message) => line(message, { application: name })));
    await eventually(() => segments(name)).toHaveLength(1);
    const inOdd = { application: name };
    expect(await logs.messages(inOdd)).toEqual(odd.map((text) => text.replace("\0", "")));
    for (const text of ["it's 100%", "a_b", "'; drop", "火"])
      expect(await logs.messages({ ...inOdd, text })).toHaveLength(1);
    expect(await logs.messages({ ...inOdd, text: "%" })).toEqual(["it's 100%"]);
  });
});

describe("nothing is lost and nothing is doubled", () => {
  test("when the service is killed again and again while lines come and segments are made", async () => {
    const settings = {
      SEGMENT_AGE_MS: "100",
      SEGMENT_BYTES: "65536",
      MERGE_SEGMENTS_MAX: "3",
      UPKEEP_INTERVAL_MS: "200",
    };
    await logs.start(settings);
    let said = 0;
    let stop = false;
    const saying = (async () => {
      while (!stop && said < SEARCH_LINES_MAX) {
        await logs.say(
          Array.from({ length: 50 }, () => line(`n${said++}`, { application, requestId: `q${said % 7}` })),
        );
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    })();
    for (let i = 0; i < 4; i++) {
      await new Promise((resolve) => setTimeout(resolve, 700 + i * 130));
      await logs.kill();
      await logs.start(settings);
    }
    stop = true;
    await saying;
    const search = () => logs.messages({ application, limit: SEARCH_LINES_MAX });
    await eventually(async () => (await search()).length).toBe(said);
    expect(new Set(await search()).size).toBe(said);
    await eventually(() => segments()).not.toEqual([]);
  });
  test("when a batch comes again: at once, after a restart, after it became a segment", async () => {
    await logs.start({ SEGMENT_AGE_MS: "100" });
    const place = await logs.say([line("once", { application })]);
    await eventually(() => segments()).toHaveLength(1);
    const again = async (i: number) =>
      logs.say([line("once", { application })], { offset: place.offset, id: `again-${i}-${run}` });
    await again(1);
    await logs.kill();
    await logs.start({ SEGMENT_AGE_MS: "100" });
    await again(2);
    await logs.say([line("last", { application })]);
    await eventually(() => logs.messages({ application })).toContain("last");
    expect(await logs.messages({ application })).toEqual(["once", "last"]);
  });
  test("when the service starts again with nothing in its journal", async () => {
    const journalFiles = () =>
      readdirSync(join(logs.stateDir, "journal")).filter((name) => name.endsWith(".journal"));
    for (const [i, message] of ["before", "after"].entries()) {
      await logs.start({ SEGMENT_AGE_MS: "100" });
      await logs.say([line(message, { application })]);
      await eventually(() => segments()).toHaveLength(i + 1);
      await eventually(journalFiles).toEqual([]);
      await logs.kill();
    }
    await logs.start();
    expect(await logs.messages({ application })).toEqual(["before", "after"]);
  });
  test("when a crash came between the segments and the end of their journal file", async () => {
    await logs.start({ SEGMENT_AGE_MS: "3600000" });
    await logs.say([line("a", { application }), line("b", { application })]);
    await eventually(() => logs.messages({ application })).toHaveLength(2);
    await logs.kill();
    const journal = join(logs.stateDir, "journal");
    const [name = ""] = readdirSync(journal).sort();
    const bytes = await readFile(join(journal, name));
    await logs.start({ SEGMENT_AGE_MS: "100" }); // makes the segment, deletes the file
    await eventually(() => segments()).toHaveLength(1);
    await eventually(() => existsSync(join(journal, name))).toBe(false);
    await logs.kill();
    await writeFile(join(journal, name), bytes); // as if it had died before the delete
    await logs.start({ SEGMENT_AGE_MS: "3600000", BUCKET_URI: `file://${logs.bucket}` });
    expect(await logs.messages({ application })).toEqual(["a", "b"]);
    await eventually(() => existsSync(join(journal, name))).toBe(false);
    expect(await logs.messages({ application })).toEqual(["a", "b"]);
    expect(await segments()).toHaveLength(1);
  });
  test("when the journal's end is cut: the batch was not acknowledged and comes again", async () => {
    await logs.start();
    await logs.say([line("whole", { application })]);
    await eventually(() => logs.messages({ application })).toHaveLength(1);
    await logs.kill();
    const journal = join(logs.stateDir, "journal");
    const [name = ""] = readdirSync(journal).sort();
    await writeFile(
      join(journal, name),
      Buffer.concat([await readFile(join(journal, name)), Buffer.from([9, 0, 0, 0, 1, 2])]),
    );
    await logs.start();
    await logs.say([line("next", { application })]);
    await eventually(() => logs.messages({ application })).toEqual(["whole", "next"]);
  });
  test("while the bucket is away: lines wait in the journal and are found there", async () => {
    await logs.start({ SEGMENT_AGE_MS: "100" });
    await rename(logs.bucket, `${logs.bucket}.away`);
    await writeFile(logs.bucket, "in the way");
    await logs.say([line("waiting", { application })]);
    await eventually(() => logs.messages({ application })).toEqual(["waiting"]);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(await logs.messages({ application })).toEqual(["waiting"]);
    await rm(logs.bucket);
    await rename(`${logs.bucket}.away`, logs.bucket);
    await eventually(() => segments()).toHaveLength(1);
    expect(await logs.messages({ application })).toEqual(["waiting"]);
  });
});

describe("segments", () => {
  test("are merged by hour and application, and the old ones are deleted", async () => {
    const hourAgo = Date.now() - 2 * HOUR_MS;
    await logs.start({
      SEGMENT_AGE_MS: "100",
      UPKEEP_INTERVAL_MS: "300",
      MERGE_LATE_MS: "0",
      RETENTION_MS: String(30 * HOUR_MS),
    });
    const old = Date.now() - 29.9 * HOUR_MS;
    for (let i = 0; i < 3; i++) {
      await logs.say([
        line(`n${i}`, { application, at: timestampFromMs(hourAgo + i), requestId: `m${i}-${run}` }),
      ]);
      await eventually(() => logs.messages({ application })).toHaveLength(i + 1);
      await new Promise((resolve) => setTimeout(resolve, 1_200));
    }
    await eventually(() => segments()).toHaveLength(1);
    expect(await logs.messages({ application })).toEqual(["n0", "n1", "n2"]);
    expect(await logs.messages({ requestId: `m1-${run}` })).toEqual(["n1"]);
    await logs.say([line("old", { application: `${application}-old`, at: timestampFromMs(old) })]);
    await eventually(() => logs.messages({ application: `${application}-old` })).toEqual(["old"]);
    await eventually(() => segments(`${application}-old`)).toHaveLength(1);
    await logs.kill();
    await logs.start({ SEGMENT_AGE_MS: "100", UPKEEP_INTERVAL_MS: "300", RETENTION_MS: String(4 * HOUR_MS) });
    await eventually(() => segments(`${application}-old`)).toHaveLength(0);
    expect(await logs.messages({ application: `${application}-old` })).toEqual([]);
    expect(await logs.messages({ application })).toHaveLength(3);
  });
  test("that a merge replaced do not exist, even when a crash left them", async () => {
    await logs.start({ SEGMENT_AGE_MS: "100" });
    await logs.say([line("a", { application })]);
    await eventually(() => segments()).toHaveLength(1);
    await logs.say([line("b", { application })]);
    await eventually(() => segments()).toHaveLength(2);
    const before = await segments();
    await logs.kill();
    const copies = await Promise.all(
      before.map(async (name) => ({ name, bytes: await readFile(join(logs.bucket, "logs", name)) })),
    );
    await logs.start({ UPKEEP_INTERVAL_MS: "500", MERGE_SEGMENTS_MAX: "2" });
    await eventually(() => segments()).toHaveLength(1);
    await logs.kill();
    for (const { name, bytes } of copies) await writeFile(join(logs.bucket, "logs", name), bytes);
    await logs.start();
    expect(await logs.messages({ application })).toEqual(["a", "b"]);
    expect(await segments()).toHaveLength(1);
  });
  test("throughput: 100,000 lines in, then one request found among them", async () => {
    await logs.start({ SEGMENT_BYTES: "4194304" });
    const batches = 200;
    const started = performance.now();
    for (let b = 0; b < batches; b++) {
      const lines = Array.from({ length: 500 }, (_, i) => {
        const n = b * 500 + i;
        return line(`request served in ${n % 977} ms by the engine`, {
          application,
          version: 1,
          deployment: "main",
          replicaId: `${application}-r${n % 5}`,
          requestId: `req-${run}-${Math.floor(n / 5)}`,
          fieldsJson: `{"status":200,"durationMs":${n % 977},"attempts":1}`,
        });
      });
      await logs.say(lines);
    }
    const said = performance.now() - started;
    const last = { application, limit: 1, requestId: `req-${run}-19999` };
    await eventually(async () => (await logs.search(last)).length).toBe(1);
    const taken = performance.now() - started;
    await eventually(() => segments().then((all) => all.length)).toBeGreaterThan(2);
    const found: LogLine[][] = [];
    const searching = performance.now();
    for (let i = 0; i < 10; i++) found.push(await logs.search({ requestId: `req-${run}-${i * 1_999}` }));
    const searched = (performance.now() - searching) / 10;
    expect(found.map((lines) => lines.length)).toEqual(Array(10).fill(5));
    const text = await logs.search({ application, text: "976 ms", limit: 100_000 });
    expect(text.length).toBe(102);
    process.stderr.write(
      `100,000 lines: published in ${said.toFixed(0)} ms, searchable after ${taken.toFixed(0)} ms, a request found in ${searched.toFixed(0)} ms\n`,
    );
  });
});
