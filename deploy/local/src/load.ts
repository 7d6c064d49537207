// Load as clients make it: workers that ask for chat completions one after the other by the official OpenAI client, without
// its retries, so that every failure that a client would see is counted.
import OpenAI from "openai";

export type LoadReport = { requests: number; failures: string[]; ttftMsP50: number };
export type Load = {
  /** So far. */
  report(): LoadReport;
  /** Lets every request end, then gives the final report. */
  stop(): Promise<LoadReport>;
};

const QUESTIONS = [
  "What is the capital of France?",
  "Name three colors.",
  "What is the sea?",
  "Write one sentence about winter.",
  "What does a cat eat?",
];

/** Keeps `clients` requests in flight until stopped; every second one is streamed. */
export function startLoad(
  gatewayUrl: string,
  options: { model: string; clients: number; maxTokens: number },
): Load {
  const client = new OpenAI({
    baseURL: `${gatewayUrl}/v1`,
    apiKey: "unused",
    maxRetries: 0,
    timeout: 120_000,
  });
  const failures: string[] = [];
  const ttftMs: number[] = [];
  let requests = 0;
  let stopping = false;
  const loop = async (id: number) => {
    for (let turn = id; !stopping; turn++) {
      requests++;
      try {
        ttftMs.push(
          await ask(
            client,
            options.model,
            QUESTIONS[turn % QUESTIONS.length] ?? "Hello",
            options.maxTokens,
            turn % 2 === 0,
          ),
        );
      } catch (error) {
        failures.push(error instanceof Error ? error.message : String(error));
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
    }
  };
  const running = Promise.all(Array.from({ length: options.clients }, (_, id) => loop(id)));
  const report = () => ({ requests, failures: [...failures], ttftMsP50: median(ttftMs) });
  return {
    report,
    async stop() {
      stopping = true;
      await running;
      return report();
    },
  };
}

/** One request; gives the time to its first token. Throws when the answer is not complete. */
async function ask(
  client: OpenAI,
  model: string,
  content: string,
  maxTokens: number,
  stream: boolean,
): Promise<number> {
  const from = performance.now();
  const body = {
    model,
    messages: [{ role: "user" as const, content }],
    max_tokens: maxTokens,
    temperature: 0,
  };
  if (!stream) {
    const answer = await client.chat.completions.create(body);
    if (answer.choices[0]?.finish_reason == null) throw new Error("an answer without an end");
    return performance.now() - from;
  }
  let first: number | undefined;
  let finish: string | null | undefined;
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
    first ??= performance.now() - from;
    finish = chunk.choices[0]?.finish_reason ?? finish;
  }
  if (first === undefined || finish == null) throw new Error("a stream without an end");
  return first;
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return Math.round(sorted[Math.floor(sorted.length / 2)] ?? 0);
}
