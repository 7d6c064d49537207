import { describe, expect, test } from "vitest";
import { AdmissionQueue, type Offer } from "./index.ts";

const CONFIG = { queueLengthMax: 3, queueWaitMsMax: 1_000, retryAfterMsMin: 100, retryAfterMsMax: 5_000 };
const NO_HURRY = { deadlineAt: null, readyAt: null };
const queue = (changes: Partial<typeof CONFIG> = {}) => new AdmissionQueue<string>({ ...CONFIG, ...changes });
const ticketOf = (offer: Offer<string>) => {
  if (offer.kind !== "queued") throw new Error(offer.why);
  return offer.ticket;
};

describe("AdmissionQueue", () => {
  test("serves in order of arrival", () => {
    const line = queue();
    for (const item of ["a", "b", "c"]) line.offer(0, item, NO_HURRY);
    expect([line.take(1), line.take(1), line.take(1), line.take(1)].map((one) => one?.item)).toEqual([
      "a",
      "b",
      "c",
      undefined,
    ]);
  });

  test("sheds what is beyond its length, never more", () => {
    const line = queue();
    const offers = ["a", "b", "c", "d"].map((item) => line.offer(0, item, NO_HURRY).kind);
    expect(offers).toEqual(["queued", "queued", "queued", "shed"]);
    expect(line.length).toBe(3);
    expect(queue({ queueLengthMax: 0 }).offer(0, "a", NO_HURRY).kind).toBe("shed");
  });

  test("tells at once who would wait in vain, by the measured pace", () => {
    const line = queue({ queueLengthMax: 100, queueWaitMsMax: 60_000 });
    for (let i = 0; i < 20; i++) line.offer(0, `w${i}`, NO_HURRY);
    for (let i = 1; i <= 10; i++) line.take(i * 100); // ten a second
    expect(line.waitMsEstimate(1_000, null)).toBeCloseTo(1_100);
    const impatient = line.offer(1_000, "x", { deadlineAt: 1_500, readyAt: null });
    expect(impatient).toEqual({ kind: "shed", why: "deadlineTooSoon", retryAfterMs: 600 });
    expect(line.offer(1_000, "y", { deadlineAt: 3_000, readyAt: null }).kind).toBe("queued");
  });

  test("a queue that stopped moving is seen to be slow", () => {
    const line = queue({ queueLengthMax: 100, queueWaitMsMax: 60_000 });
    for (let i = 0; i < 20; i++) line.offer(0, `w${i}`, NO_HURRY);
    for (let i = 1; i <= 10; i++) line.take(i * 100);
    expect(line.waitMsEstimate(10_000, null)).toBeGreaterThan(10_000);
  });

  test("a start that comes too late for a request is known beforehand", () => {
    const offer = queue().offer(0, "a", { deadlineAt: null, readyAt: 4_000 });
    expect(offer).toEqual({ kind: "shed", why: "deadlineTooSoon", retryAfterMs: 3_000 });
    expect(queue().offer(0, "a", { deadlineAt: null, readyAt: 500 }).kind).toBe("queued");
  });

  test("Retry-After stays within its bounds", () => {
    const late = queue().offer(0, "a", { deadlineAt: null, readyAt: 1_000_000 });
    expect(late).toMatchObject({ kind: "shed", retryAfterMs: 5_000 });
    const full = queue({ queueLengthMax: 0 }).offer(0, "a", NO_HURRY);
    expect(full).toMatchObject({ kind: "shed", retryAfterMs: 100 });
  });

  test("forgets the cancelled and gives back the expired, each once", () => {
    const line = queue();
    const a = ticketOf(line.offer(0, "a", NO_HURRY));
    line.offer(0, "b", { deadlineAt: 300, readyAt: null });
    line.offer(0, "c", NO_HURRY);
    expect(line.cancel(a)).toBe(true);
    expect(line.cancel(a)).toBe(false);
    expect(line.nextDeadlineAt).toBe(300);
    expect(line.expire(299)).toEqual([]);
    expect(line.take(300)?.item).toBe("c"); // b is too late to be served
    expect(line.expire(300).map(({ item }) => item)).toEqual(["b"]);
    expect(line.expire(5_000)).toEqual([]);
    expect(line.nextDeadlineAt).toBeNull();
  });
});
