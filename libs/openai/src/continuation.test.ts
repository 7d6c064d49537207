import { describe, expect, test } from "vitest";
import {
  attachTokens,
  type ChatCompletionChunk,
  type CompletionChunk,
  checkChatCompletion,
  resumeRequest,
  StreamTally,
  withoutExtension,
} from "./index.ts";

type Finish = ChatCompletionChunk["choices"][number]["finish_reason"];

const chunk = (id: string, delta: Record<string, unknown>, finish: Finish = null): ChatCompletionChunk => ({
  id,
  object: "chat.completion.chunk",
  created: id === "a" ? 1 : 2,
  model: "m",
  choices: [{ index: 0, delta, finish_reason: finish }],
});
const text = (id: string, content: string, tokens: number[], finish: Finish = null) =>
  attachTokens(chunk(id, { content }, finish), tokens);

describe("StreamTally", () => {
  test("an answer that moves to another replica reads as one answer", () => {
    const tally = new StreamTally({ tokensMax: 100 });
    const seen = [
      chunk("a", { role: "assistant", content: "" }),
      text("a", "Hel", [10]),
      text("a", "lo", [11, 12]),
    ].map((one) => tally.take(one));
    expect(tally.extension()).toEqual({ resume_token_ids: [10, 11, 12], resume_text_length: 5 });
    seen.push(tally.take(chunk("b", { role: "assistant", content: "" })));
    seen.push(tally.take(text("b", " world", [13], "stop")));

    const visible = seen.filter((one) => one !== null);
    expect(visible.map((one) => one.choices[0]?.delta.content)).toEqual(["", "Hel", "lo", " world"]);
    expect(new Set(visible.map((one) => `${one.id}/${one.created}`))).toEqual(new Set(["a/1"]));
    expect(JSON.stringify(visible)).not.toContain("token_ids");
    expect(visible.filter((one) => one.choices[0]?.delta.role !== undefined)).toHaveLength(1);
    expect(tally.finished).toBe(true);
    expect(tally.extension()?.resume_token_ids).toEqual([10, 11, 12, 13]);
  });

  test("tokens whose text is held back are remembered", () => {
    const tally = new StreamTally({ tokensMax: 100 });
    tally.take(text("a", "", [7]));
    expect(tally.extension()).toEqual({ resume_token_ids: [7], resume_text_length: 0 });
  });

  test("a completion's text counts too", () => {
    const tally = new StreamTally({ tokensMax: 100 });
    const one: CompletionChunk = {
      id: "a",
      object: "text_completion",
      created: 1,
      model: "m",
      choices: [{ index: 0, text: "abc", finish_reason: null }],
    };
    tally.take(attachTokens(one, [1]));
    expect(tally.extension()).toEqual({ resume_token_ids: [1], resume_text_length: 3 });
  });

  test.each([
    ["the engine names no tokens", [chunk("a", { content: "x" })]],
    ["tools are called", [attachTokens(chunk("a", { tool_calls: [{ index: 0 }] }), [1])]],
    ["there are more tokens than are kept", [text("a", "x", [1, 2, 3, 4])]],
    [
      "there are several choices",
      [{ ...text("a", "x", [1]), choices: [{ index: 1, delta: {}, finish_reason: null }] }],
    ],
  ])("is not continued when %s", (_, chunks) => {
    const tally = new StreamTally({ tokensMax: 3 });
    for (const one of chunks) tally.take(one as ChatCompletionChunk);
    expect(tally.extension()).toBeNull();
  });

  test("the usage at the end of a continued answer is passed on", () => {
    const tally = new StreamTally({ tokensMax: 3 });
    tally.take(text("a", "x", [1]));
    const usage = { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 };
    expect(tally.take({ ...chunk("b", {}), choices: [], usage })).toMatchObject({
      id: "a",
      choices: [],
      usage,
    });
  });
});

test("a client's own value of the internal field does not get through, a gateway's does", () => {
  const body = { model: "m", messages: [{ role: "user", content: "x" }], pilotlight: { evil: true } };
  const checked = checkChatCompletion(withoutExtension(body));
  if (checked.kind !== "valid") throw checked.error;
  expect(checked.request.pilotlight).toBeUndefined();
  const resumed = resumeRequest(checked.request, { resume_token_ids: [1], resume_text_length: 1 });
  expect(checkChatCompletion(resumed)).toEqual({ kind: "valid", request: resumed });
});
