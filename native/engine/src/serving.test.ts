import { readdirSync, readFileSync } from "node:fs";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { createEngineWith, type EmbeddedEngine } from "./engine.ts";
import { type Answer, answer, builtAddon, fixtureOptions, startEngine } from "./fixtures.ts";
import type { Addon } from "./native.ts";
import type { EngineOptions, GenerateRequest, LogFields } from "./types.ts";

const BUILD_TIMEOUT_MS = 900_000;
/** The fixture's rotary embedding has no end, so its context can be as long as a test needs. */
const LONG = { max_position_embeddings: 4_096 };

let addon: Addon;
const engines: EmbeddedEngine[] = [];
beforeAll(async () => {
  addon = await builtAddon();
}, BUILD_TIMEOUT_MS);
afterEach(async () => {
  await Promise.all(engines.splice(0).map((engine) => engine.close()));
});

async function start(options: Partial<EngineOptions> = {}, config: Record<string, unknown> = {}) {
  const engine = await startEngine(addon, "llama", options, config);
  engines.push(engine);
  return engine;
}

/** Until `condition` holds; the event loop turns in between. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

const GREEDY = { temperature: 0, ignoreEos: true } satisfies GenerateRequest;

describe("batching", () => {
  const requests: GenerateRequest[] = Array.from({ length: 10 }, (_, index) => ({
    text: `Request ${index} `.repeat(1 + (index % 3)),
    maxTokens: 40 + 5 * index,
    ignoreEos: true,
    ...(index % 2 === 0 ? { temperature: 0 } : { temperature: 1.3, seed: index, topP: 0.95 }),
  }));
  const tokens = (answers: Answer[]) => answers.map(({ tokenIds }) => tokenIds);

  test("an answer is the same alone, in a full batch, and when it had to give way to others", async () => {
    const alone = await start();
    const single: Answer[] = [];
    for (const request of requests) single.push(await answer(alone, request));
    const together = await start({ batchTokensMax: 64 });
    expect(tokens(await Promise.all(requests.map((request) => answer(together, request))))).toEqual(
      tokens(single),
    );
    const cramped = await start({ kvTokensMax: 192, batchTokensMax: 16 });
    expect(tokens(await Promise.all(requests.map((request) => answer(cramped, request))))).toEqual(
      tokens(single),
    );
    expect(cramped.stats().preemptionsTotal).toBeGreaterThan(0);
    // An answer's end is told a moment before its place is free.
    await expect
      .poll(() => cramped.stats())
      .toMatchObject({ running: 0, waiting: 0, kvTokensUsed: 0, requestsStoppedTotal: 10 });
  });

  test("a full queue refuses the next request and takes one again later", async () => {
    const engine = await start({ sequencesMax: 1, waitingMax: 2 });
    await engine.quiesce();
    const running = [1, 2, 3].map(() => answer(engine, { ...GREEDY, text: "x", maxTokens: 3 }));
    await until(() => engine.stats().state === "quiesced");
    await expect(answer(engine, { text: "x" })).rejects.toMatchObject({
      code: "resourceExhausted",
      field: "options.waitingMax",
    });
    engine.resume();
    await Promise.all(running);
    expect((await answer(engine, { ...GREEDY, text: "x", maxTokens: 3 })).tokenIds).toHaveLength(3);
  });

  test("many texts are embedded beside each other as alone", async () => {
    const engine = await startEngine(addon, "bert", { batchTokensMax: 64 });
    engines.push(engine);
    const inputs = Array.from({ length: 40 }, (_, i) =>
      Array.from({ length: 1 + (i % 30) }, (_, j) => (i + j) % 96),
    );
    const together = await engine.embed(inputs);
    for (const i of [0, 7, 39]) expect((await engine.embed([inputs[i]!]))[0]).toEqual(together[i]);
    expect(await engine.embed([])).toEqual([]);
    await expect(engine.embed([[1, 2], []])).rejects.toMatchObject({
      code: "invalidArgument",
      field: "inputs[1]",
    });
    await expect(engine.embed(["text"])).rejects.toMatchObject({
      code: "unsupported",
      field: "tokenizerJson",
    });
    await expect(answer(engine, { promptTokenIds: [1] })).rejects.toMatchObject({ code: "unsupported" });
  });
});

describe("an answer continues elsewhere", () => {
  test.each([
    ["greedy", { temperature: 0 }],
    ["seeded", { temperature: 1.2, seed: 7, topK: 60 }],
    ["penalised", { temperature: 0.9, seed: 3, topP: 0.9, presencePenalty: 0.5, frequencyPenalty: 0.3 }],
    ["with a stop string", { temperature: 1.2, seed: 7, stop: ["\u0000\u0001", "zz"] }],
  ])("from every cut, as if nothing had happened: %s", async (_, sampling) => {
    const [first, second] = [await start(), await start({ threads: 1, batchTokensMax: 16 })];
    const request = { text: "Once upon a time", maxTokens: 24, ignoreEos: true, ...sampling };
    const whole = await answer(first, request);
    const pieces: { tokens: number[]; text: string }[] = [];
    for (const { tokenIds, text } of whole.chunks) {
      const last = pieces.at(-1);
      pieces.push({ tokens: [...(last?.tokens ?? []), ...tokenIds], text: (last?.text ?? "") + text });
    }
    for (const { tokens, text } of pieces.slice(0, -1)) {
      const rest = await answer(second, { ...request, resumeTokenIds: tokens });
      expect([...tokens, ...rest.tokenIds]).toEqual(whole.tokenIds);
      expect(text + rest.text).toBe(whole.text);
      expect(rest.finishReason).toBe(whole.finishReason);
      expect(rest.usage?.completionTokens).toBe(whole.usage?.completionTokens);
    }
  });

  test("one that was complete already ends at once", async () => {
    const engine = await start();
    const request = { ...GREEDY, text: "Once", maxTokens: 6 };
    const { tokenIds } = await answer(engine, request);
    const again = await answer(engine, { ...request, resumeTokenIds: tokenIds });
    expect(again).toMatchObject({ tokenIds: [], text: "", finishReason: "length" });
    expect(again.usage).toMatchObject({ completionTokens: 6 });
  });
});

describe("how an answer ends", () => {
  test("at a stop string, which is not part of it", async () => {
    const engine = await start();
    const request = { text: "abc", temperature: 1, seed: 11, maxTokens: 40, ignoreEos: true };
    const free = await answer(engine, request);
    const stop = free.text.slice(10, 13);
    const stopped = await answer(engine, { ...request, stop: [stop] });
    expect(stopped.finishReason).toBe("stop");
    expect(stopped.text).toBe(free.text.slice(0, free.text.indexOf(stop)));
    expect(stopped.chunks.map(({ text }) => text).join("")).not.toContain(stop);
  });

  test("at an end-of-sequence token, unless told to go on", async () => {
    const engine = await start();
    const request = { text: "abc", temperature: 0, maxTokens: 4, logitBias: { 257: 1_000 } };
    const ended = await answer(engine, request);
    expect(ended).toMatchObject({ tokenIds: [257], text: "", finishReason: "stop" });
    expect(await answer(engine, { ...request, ignoreEos: true })).toMatchObject({ finishReason: "length" });
  });

  test("at the end of the context", async () => {
    const engine = await start();
    const { usage, finishReason } = await answer(engine, { ...GREEDY, text: "abc" });
    expect(finishReason).toBe("length");
    expect(usage).toMatchObject({ promptTokens: 3, completionTokens: 125 });
  });

  test.each([
    ["request", { text: "x", promptTokenIds: [1] }],
    ["request", {}],
    ["request.promptTokenIds", { promptTokenIds: [] }],
    ["request.promptTokenIds", { promptTokenIds: [260] }],
    ["request.promptTokenIds[1]", { promptTokenIds: [1, -1] }],
    ["request.promptTokenIds", { text: "x".repeat(200) }],
    ["request.resumeTokenIds", { text: "x", resumeTokenIds: [9_999] }],
    ["request.resumeTokenIds", { text: "x", resumeTokenIds: [1, 2], maxTokens: 1 }],
    ["request.maxTokens", { text: "x", maxTokens: 0 }],
    ["request.maxTokens", { text: "x", maxTokens: Number.NaN }],
    ["request.temperature", { text: "x", temperature: -1 }],
    ["request.topP", { text: "x", topP: 0 }],
    ["request.topK", { text: "x", topK: 1.5 }],
    ["request.seed", { text: "x", seed: -4 }],
    ["request.stop[1]", { text: "x", stop: ["a", ""] }],
    ["request.logitBias", { text: "x", logitBias: { 999: 1 } }],
    ["request.presencePenalty", { text: "x", presencePenalty: 3 }],
    ["request.logprobs", { text: "x", logprobs: 21 }],
    ["request.messages", { messages: [{ role: "user", content: 1n }] }],
    [undefined, { text: "x", maxTokens: "many" as unknown as number }],
    [undefined, { text: 5 as unknown as string }],
  ] satisfies [string | undefined, GenerateRequest][])(
    "a wrong request is refused by field: %s",
    async (field, request) => {
      const engine = await start();
      const code = "invalidArgument";
      await expect(answer(engine, request)).rejects.toMatchObject(
        field === undefined ? { code } : { code, field },
      );
      expect(engine.stats()).toMatchObject({ running: 0, waiting: 0 });
    },
  );
});

describe("cancellation", () => {
  const endless = { ...GREEDY, text: "go on", maxTokens: 4_000 };

  test("an aborted signal ends the answer with what there is", async () => {
    const engine = await start({ kvTokensMax: 4_096 }, LONG);
    const abort = new AbortController();
    let tokens = 0;
    let last: unknown;
    for await (const chunk of engine.generate(endless, { signal: abort.signal })) {
      tokens += chunk.tokenIds.length;
      if (tokens > 5) abort.abort();
      last = chunk;
    }
    expect(last).toMatchObject({ finishReason: "cancelled", usage: { completionTokens: tokens } });
    expect(tokens).toBeLessThan(4_000);
    await until(() => engine.stats().running === 0);
    expect(engine.stats()).toMatchObject({ kvTokensUsed: 0, requestsCancelledTotal: 1 });
  });

  test("a signal aborted before the call starts nothing", async () => {
    const engine = await start({ kvTokensMax: 4_096 }, LONG);
    const chunks = await Array.fromAsync(engine.generate(endless, { signal: AbortSignal.abort() }));
    expect(chunks).toMatchObject([{ tokenIds: [], finishReason: "cancelled" }]);
    const late = new AbortController();
    const waiting = Array.fromAsync(engine.generate(endless, { signal: late.signal }));
    late.abort();
    expect((await waiting).at(-1)).toMatchObject({ finishReason: "cancelled" });
    await expect(engine.embed(["x"], { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "cancelled",
    });
  });

  test("a consumer that leaves its loop frees the place", async () => {
    const engine = await start({ kvTokensMax: 4_096, sequencesMax: 1, waitingMax: 0 }, LONG);
    for await (const _ of engine.generate(endless)) break;
    // None runs before the first step was counted either.
    await until(() => engine.stats().requestsCancelledTotal === 1);
    expect((await answer(engine, { ...GREEDY, text: "next", maxTokens: 2 })).tokenIds).toHaveLength(2);
  });

  test("a consumer that does not read holds its own answer only, and loses nothing", async () => {
    const engine = await start({ kvTokensMax: 4_096 }, LONG);
    const slow = engine.generate({ ...endless, maxTokens: 1_500 });
    const first = (await slow.next()).value;
    await until(() => engine.stats().generatedTokensTotal >= 512);
    expect((await answer(engine, { ...GREEDY, text: "other", maxTokens: 20 })).tokenIds).toHaveLength(20);
    expect(engine.stats().generatedTokensTotal).toBeLessThanOrEqual(first.tokenIds.length + 512 + 20);
    const rest = (await Array.fromAsync({ [Symbol.asyncIterator]: () => slow })).flatMap(
      ({ tokenIds }) => tokenIds,
    );
    expect(first.tokenIds.length + rest.length).toBe(1_500);
  });
});

describe("life", () => {
  test("quiesced it computes nothing, resumed it goes on where it was", async () => {
    const engine = await start({ kvTokensMax: 4_096 }, LONG);
    const request = { ...GREEDY, text: "rest", maxTokens: 300 };
    const undisturbed = await answer(engine, request);
    const under_way = answer(engine, request);
    await engine.quiesce();
    const { stepsTotal, state } = engine.stats();
    expect(state).toBe("quiesced");
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(engine.stats().stepsTotal).toBe(stepsTotal);
    engine.resume();
    expect((await under_way).tokenIds).toEqual(undisturbed.tokenIds);
  });

  test("closing rejects what is open and what comes after, and can be repeated", async () => {
    const engine = await start({ kvTokensMax: 4_096 }, LONG);
    const open = answer(engine, { ...GREEDY, text: "open", maxTokens: 4_000 });
    const refused = expect(open).rejects.toMatchObject({ code: "unavailable" });
    await engine.generate({ ...GREEDY, text: "first" }).next();
    await Promise.all([engine.close(), engine.close()]);
    await refused;
    expect(engine.stats().state).toBe("closed");
    await expect(answer(engine, { text: "late" })).rejects.toMatchObject({ code: "unavailable" });
    await expect(engine.quiesce()).rejects.toMatchObject({ code: "unavailable" });
  });

  test("closing before the weights are complete says so to whoever waits for them", async () => {
    const engine = createEngineWith(addon, fixtureOptions("llama"));
    const early = answer(engine, { text: "early" });
    const refused = expect(early).rejects.toMatchObject({ code: "unavailable" });
    await engine.close();
    await refused;
    await expect(engine.weightsComplete).rejects.toMatchObject({ code: "unavailable" });
  });

  test("each line of a request carries its ID", async () => {
    const lines: [string, LogFields][] = [];
    const engine = await start({ onLog: (_, message, fields) => lines.push([message, fields]) });
    await answer(engine, { ...GREEDY, requestId: "req-1", text: "log", maxTokens: 3 });
    expect(lines[0]).toEqual(["weights complete", {}]);
    const mine = lines.filter(([, fields]) => fields.requestId === "req-1");
    expect(mine.map(([message]) => message)).toEqual(["request admitted", "request finished"]);
    expect(mine[1]?.[1]).toMatchObject({ finishReason: "length", promptTokens: 3, completionTokens: 3 });
  });

  test.runIf(process.platform === "linux")("an idle engine uses no CPU", async () => {
    const engine = await start({ threads: 3 });
    await answer(engine, { ...GREEDY, text: "work", maxTokens: 10 });
    const ticks = () =>
      readdirSync("/proc/self/task")
        .map((task) => readFileSync(`/proc/self/task/${task}/stat`, "utf8"))
        .filter((stat) => stat.includes("(engine"))
        .map((stat) => stat.slice(stat.lastIndexOf(")")).split(" "))
        .reduce((sum, fields) => sum + Number(fields[12]) + Number(fields[13]), 0);
    const before = ticks();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(ticks() - before).toBeLessThanOrEqual(1);
  });
});

describe("a panic inside Rust", () => {
  test(
    "in a call is an error of that call; in a step it ends the engine, not the process",
    async () => {
      const faulty = await builtAddon(["fault-injection"]);
      const lines: string[] = [];
      const engine = await startEngine(
        faulty,
        "llama",
        { kvTokensMax: 4_096, onLog: (_, line) => lines.push(line) },
        LONG,
      );
      expect(() => engine.native.injectPanic?.("call")).toThrow(/injected into a call/);
      const open = [1, 2].map(() => answer(engine, { ...GREEDY, text: "open", maxTokens: 4_000 }));
      const refused = Promise.all(
        open.map((one) =>
          expect(one).rejects.toMatchObject({ code: "internal", message: /injected into a step/ }),
        ),
      );
      await until(() => engine.stats().running === 2);
      engine.native.injectPanic?.("step");
      await refused;
      expect(engine.stats()).toMatchObject({ state: "failed", failure: expect.stringContaining("injected") });
      await until(() => lines.includes("engine failed"));
      await expect(answer(engine, { text: "late" })).rejects.toMatchObject({ code: "internal" });
      await engine.close();
      const healthy = await start();
      expect((await answer(healthy, { ...GREEDY, text: "fine", maxTokens: 2 })).tokenIds).toHaveLength(2);
    },
    BUILD_TIMEOUT_MS,
  );
});
