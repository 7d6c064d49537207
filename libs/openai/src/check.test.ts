import { describe, expect, test } from "vitest";
import { checkChatCompletion, checkCompletion, checkEmbeddings, OPENAI_LIMITS } from "./index.ts";

const CHAT = { model: "m", messages: [{ role: "user", content: "hello" }] };

const fieldOf = (checked: ReturnType<typeof checkChatCompletion>) =>
  checked.kind === "invalid" ? checked.error.field : null;

describe("chat completions", () => {
  test("engine options that nobody here knows pass through untouched, at every level", () => {
    const body = {
      ...CHAT,
      top_k: 5,
      chat_template_kwargs: { enable_thinking: false },
      messages: [
        { role: "user", content: [{ type: "image_url", image_url: { url: "x", detail: "low" } }], name: "n" },
      ],
      stream_options: { include_usage: true, include_obfuscation: false },
    };
    const checked = checkChatCompletion(body);
    expect(checked).toEqual({ kind: "valid", request: body });
  });

  test.each([
    [{ ...CHAT, temperature: "hot" }, "temperature"],
    [{ ...CHAT, temperature: 3 }, "temperature"],
    [{ ...CHAT, max_tokens: 0 }, "max_tokens"],
    [{ ...CHAT, n: 1.5 }, "n"],
    [{ ...CHAT, messages: [] }, "messages"],
    [{ ...CHAT, messages: [{ role: "robot", content: "x" }] }, "messages[0].role"],
    [{ ...CHAT, messages: [{ role: "user", content: 4 }] }, "messages[0].content"],
    [{ ...CHAT, stop: Array.from({ length: OPENAI_LIMITS.stopSequencesMax + 1 }, () => "x") }, "stop"],
    [{ ...CHAT, logit_bias: { 5: 200 } }, "logit_bias.5"],
    [{ messages: CHAT.messages }, "model"],
    [
      { ...CHAT, pilotlight: { resume_token_ids: ["a"], resume_text_length: 0 } },
      "pilotlight.resume_token_ids[0]",
    ],
  ])("a malformed known field is named: %j", (body, field) => {
    expect(fieldOf(checkChatCompletion(body))).toBe(field);
  });

  test("the message says what would be right", () => {
    const checked = checkChatCompletion({ ...CHAT, top_p: 2 });
    expect(checked).toMatchObject({
      kind: "invalid",
      error: { code: "invalidArgument", message: "top_p must be at most 1" },
    });
  });

  test.each([null, 3, "text", []])("a body that is no object is refused: %j", (body) => {
    expect(checkChatCompletion(body).kind).toBe("invalid");
  });
});

test("a completion takes text and tokens, one or many", () => {
  for (const prompt of ["x", ["x", "y"], [1, 2], [[1], [2]]]) {
    expect(checkCompletion({ model: "m", prompt }).kind).toBe("valid");
  }
  expect(checkCompletion({ model: "m", prompt: [1, "x"] }).kind).toBe("invalid");
});

test("embeddings refuse empty input and more inputs than the limit", () => {
  const many = Array.from({ length: OPENAI_LIMITS.embeddingInputsMax + 1 }, () => "x");
  for (const input of ["", [], [""], [[]], many]) {
    expect(checkEmbeddings({ model: "m", input }).kind).toBe("invalid");
  }
  expect(checkEmbeddings({ model: "m", input: many.slice(1) }).kind).toBe("valid");
});
