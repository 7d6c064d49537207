import { describe, expect, test } from "vitest";
import { Bloom } from "./bloom.ts";
import { Ledger } from "./ledger.ts";
import {
  hourFrom,
  parseSegmentKey,
  planMerges,
  planRetention,
  type Segment,
  segmentKey,
} from "./segments.ts";

const HOUR_MS = 3_600_000;

describe("segments", () => {
  const HOUR = Date.parse("2026-11-21T10:00:00Z");
  const DAY = Date.parse("2026-11-21T00:00:00Z");
  const POLICY = { lateMs: 900_000, segmentsMax: 3, mergedBytesMax: 100 };
  const key = (name: string, at = HOUR, of = "chat") => segmentKey(hourFrom(at), of, name);
  const made = (name: string, bytes = 10, at = HOUR, of = "chat") =>
    parseSegmentKey(key(name, at, of), bytes) as Segment;
  test.each(["chat", "", "_none", "a/b", "ü%=", ".."])("a key says whose lines they are: '%s'", (of) => {
    expect(parseSegmentKey(key("abc-7", HOUR, of), 5)).toEqual({
      key: key("abc-7", HOUR, of),
      ...hourFrom(HOUR),
      application: of,
      bytes: 5,
      journal: "abc-7",
    });
    expect(key("abc-7", HOUR, of).split("/")).toHaveLength(5);
    const day = segmentKey({ from: DAY, until: DAY + 24 * HOUR_MS }, of, "abc-m9");
    expect(parseSegmentKey(day, 5)).toMatchObject({
      from: DAY,
      until: DAY + 24 * HOUR_MS,
      journal: undefined,
    });
  });
  test("other objects are no segments", () => {
    for (const name of [
      "logs/v1/x",
      `${key("a-1")}.stats`,
      key("a-1").replace("T10", "T99"),
      key("a-1").replace("v1", "v2"),
    ])
      expect(parseSegmentKey(name, 1)).toBeUndefined();
  });
  test("an hour that is over is merged, one that is not only when it has many", () => {
    const open = [made("a-1"), made("a-2")];
    expect(planMerges(open, POLICY, HOUR + HOUR_MS)).toEqual([]);
    expect(planMerges([...open, made("a-3")], POLICY, HOUR + HOUR_MS)).toHaveLength(1);
    expect(planMerges(open, POLICY, HOUR + HOUR_MS + 900_001)).toEqual([
      { ...hourFrom(HOUR), application: "chat", segments: open },
    ]);
    expect(planMerges([made("a-1"), made("a-1", 10, HOUR, "other")], POLICY, HOUR + 9 * HOUR_MS)).toEqual([]);
  });
  test("a day that is over becomes one, as far as it fits", () => {
    const all = [made("a-1", 60), made("a-2", 30, HOUR + HOUR_MS), made("a-3", 50, DAY)];
    const [merge, ...rest] = planMerges(all, POLICY, DAY + 25 * HOUR_MS);
    expect(rest).toEqual([]);
    expect(merge).toMatchObject({ from: DAY, until: DAY + 24 * HOUR_MS, application: "chat" });
    expect(merge?.segments.map(({ bytes }) => bytes)).toEqual([30, 50]);
  });
  test("what is too old goes, then what is too much", () => {
    const all = [0, 1, 2, 3].map((i) => made(`a-${i}`, 10, HOUR + i * HOUR_MS));
    const now = HOUR + 4 * HOUR_MS;
    const gone = (keepMs: number, bytesMax: number) =>
      planRetention(all, { keepMs, bytesMax }, now).map(({ from }) => (from - HOUR) / HOUR_MS);
    expect(gone(100 * HOUR_MS, 0)).toEqual([]);
    expect(gone(2.5 * HOUR_MS, 0)).toEqual([0]);
    expect(gone(100 * HOUR_MS, 25)).toEqual([1, 0]);
  });
  test("statistics tell who is surely not there", () => {
    const ids = Array.from({ length: 5_000 }, (_, i) => `req-${i}`);
    const bloom = Bloom.of(ids);
    expect(ids.every((id) => bloom.mayHave(id))).toBe(true);
    const wrong = Array.from({ length: 10_000 }, (_, i) => `other-${i}`).filter((id) =>
      bloom.mayHave(id),
    ).length;
    expect(wrong).toBeLessThan(300);
    expect(Bloom.of([]).mayHave("x")).toBe(false);
  });
  test("a ledger melts ranges that follow each other, in any order", () => {
    const ledger = new Ledger();
    for (const [from, to] of [
      [0, 10],
      [30, 40],
      [10, 20],
      [20, 30],
    ] as const)
      ledger.add("a", from, to, 1);
    expect(ledger.toJSON().a?.ranges).toEqual([[0, 40]]);
    const again = new Ledger();
    again.restore(JSON.parse(JSON.stringify(ledger)));
    expect([again.has("a", 5, 35), again.has("a", 35, 41), again.has("b", 0, 1)]).toEqual([
      true,
      false,
      false,
    ]);
    again.prune(100, 50, 10);
    expect(again.has("a", 5, 35)).toBe(false);
  });
});
