import { describe, expect, test } from "vitest";
import { encodeSse, SSE_DONE, SSE_KEEP_ALIVE, SseDecoder } from "./index.ts";

const bytes = new TextEncoder();
const decoder = () => new SseDecoder({ eventLengthMax: 1000 });

describe("server-sent events", () => {
  test("survive being cut at every byte, also inside a character", () => {
    const stream = bytes.encode(
      `${encodeSse({ text: "Zürich 🚀\nline" })}${SSE_KEEP_ALIVE}${encodeSse({ n: 1 })}${SSE_DONE}`,
    );
    for (let cut = 0; cut <= stream.length; cut++) {
      const one = decoder();
      const payloads = [...one.push(stream.subarray(0, cut)), ...one.push(stream.subarray(cut))];
      expect(payloads).toEqual(['{"text":"Zürich 🚀\\nline"}', '{"n":1}', "[DONE]"]);
    }
  });

  test("an event is complete only with its empty line", () => {
    const one = decoder();
    expect(one.push(bytes.encode('data: {"a":1}\n'))).toEqual([]);
    expect(one.push(bytes.encode("\n"))).toEqual(['{"a":1}']);
  });

  test("an event without end is refused at the limit, and again", () => {
    const one = decoder();
    one.push(bytes.encode("data: "));
    const endless = () => {
      for (let i = 0; i < 100; i++) one.push(bytes.encode("x".repeat(100)));
    };
    expect(endless).toThrow("longer than 1000 characters");
    expect(endless).toThrow("longer than 1000 characters");
  });
});
