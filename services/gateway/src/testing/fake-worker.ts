// The other side for tests: an HTTP server that speaks a worker's contract, and misbehaves on demand. Its model is a
// function: token i of an answer is a word made from the prompt and i, so that any worker continues any other's answer.
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import {
  ANSWER_HEADER,
  attachTokens,
  DRAINING_HEADER,
  encodeSse,
  SSE_DONE,
  type StreamChunk,
} from "@pilotlight/openai";

export type Behaviour =
  | { kind: "well" }
  /** After so many tokens: the connection is cut, or nothing more comes, or nonsense, or an error event. */
  | { kind: "dies" | "stalls" | "garbage" | "fails"; afterTokens: number }
  | { kind: "draining" }
  | { kind: "status"; status: number; body?: string }
  /** Takes the request and never answers. */
  | { kind: "silent" };

export type Seen = {
  headers: IncomingMessage["headers"];
  body: Record<string, unknown>;
  path: string;
  raw: string;
};

export type FakeWorker = {
  readonly endpoint: string;
  readonly seen: Seen[];
  /** Requests whose connection closed before their answer ended. */
  readonly abandoned: number;
  readonly open: number;
  behave(next: Behaviour): void;
  /** Closes the port and cuts every connection, as kill -9 would. */
  kill(): Promise<void>;
};

export type FakeModel = { tokens: number; tokenMs: number; name: string };

/** Token i of the answer to a prompt. */
export const wordOf = (prompt: string, index: number): string => ` ${prompt.slice(0, 3)}${index}é`;

export const answerTo = (prompt: string, tokens: number): string =>
  Array.from({ length: tokens }, (_, index) => wordOf(prompt, index)).join("");

export async function startFakeWorker(options: Partial<FakeModel> = {}): Promise<FakeWorker> {
  const model: FakeModel = { tokens: 8, tokenMs: 2, name: "test-model", ...options };
  const seen: Seen[] = [];
  let behaviour: Behaviour = { kind: "well" };
  const counts = { abandoned: 0, open: 0 };
  const server = createServer((request, response) => {
    counts.open++;
    response.once("close", () => {
      counts.open--;
      if (!response.writableFinished) counts.abandoned++;
    });
    void answer(request, response, model, behaviour, seen).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen,
    get abandoned() {
      return counts.abandoned;
    },
    get open() {
      return counts.open;
    },
    behave(next) {
      behaviour = next;
    },
    async kill() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  model: FakeModel,
  behaviour: Behaviour,
  seen: Seen[],
): Promise<void> {
  let raw = "";
  for await (const part of request) raw += part;
  const body = JSON.parse(raw) as Record<string, unknown>;
  seen.push({ headers: request.headers, body, path: request.url ?? "", raw });
  if (behaviour.kind === "draining") {
    response.writeHead(503, { [DRAINING_HEADER]: "1" }).end("{}");
  } else if (behaviour.kind === "status") {
    const text =
      behaviour.body ?? JSON.stringify({ error: { message: "no", type: "x", param: null, code: null } });
    response.writeHead(behaviour.status, { "content-type": "application/json" }).end(text);
  } else if (behaviour.kind === "silent") {
    return;
  } else if (request.url === "/v1/embeddings") sendJson(response, embeddingsOf(body, model));
  else if (body.stream === true) await stream(request, response, body, model, behaviour);
  else await whole(request, response, body, model, behaviour);
}

const sendJson = (response: ServerResponse, body: unknown) =>
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));

function promptOf(body: Record<string, unknown>): string {
  const messages = body.messages as { content: string }[] | undefined;
  return messages?.at(-1)?.content ?? String(body.prompt);
}

const usageOf = (prompt: string, tokens: number) => ({
  prompt_tokens: prompt.length,
  completion_tokens: tokens,
  total_tokens: prompt.length + tokens,
});

async function whole(
  request: IncomingMessage,
  response: ServerResponse,
  body: Record<string, unknown>,
  model: FakeModel,
  behaviour: Behaviour,
): Promise<void> {
  const prompt = promptOf(body);
  const tokens = Number(body.max_tokens ?? model.tokens);
  await sleep(model.tokenMs * tokens);
  const isChat = request.url === "/v1/chat/completions";
  const text = answerTo(prompt, tokens);
  const choice = isChat ? { message: { role: "assistant", content: text } } : { text };
  const answered = JSON.stringify({
    id: `${isChat ? "chatcmpl" : "cmpl"}-${request.headers[ANSWER_HEADER]}`,
    object: isChat ? "chat.completion" : "text_completion",
    created: 1,
    model: model.name,
    choices: [{ index: 0, ...choice, finish_reason: "length", logprobs: null }],
    usage: usageOf(prompt, tokens),
  });
  response.writeHead(200, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(answered),
  });
  if (behaviour.kind === "dies") {
    response.write(answered.slice(0, 20));
    await sleep(10);
    response.destroy();
  } else if (behaviour.kind === "garbage") response.end("x".repeat(Buffer.byteLength(answered)));
  else response.end(answered);
}

async function stream(
  request: IncomingMessage,
  response: ServerResponse,
  body: Record<string, unknown>,
  model: FakeModel,
  behaviour: Behaviour,
): Promise<void> {
  const prompt = promptOf(body);
  const tokens = Number(body.max_tokens ?? model.tokens);
  const extension = body.pilotlight as { resume_token_ids: number[] } | undefined;
  const isChat = request.url === "/v1/chat/completions";
  const head = {
    id: `${isChat ? "chatcmpl" : "cmpl"}-${request.headers[ANSWER_HEADER]}-${process.hrtime.bigint()}`,
    object: isChat ? "chat.completion.chunk" : "text_completion",
    created: Date.now(),
    model: model.name,
  };
  const chunk = (part: object, finish: string | null) =>
    ({ ...head, choices: [{ index: 0, ...part, finish_reason: finish }] }) as unknown as StreamChunk;
  const piece = (text: string) => (isChat ? { delta: { content: text } } : { text });
  response.writeHead(200, { "content-type": "text/event-stream" });
  if (isChat) response.write(encodeSse(chunk({ delta: { role: "assistant", content: "" } }, null)));
  for (let index = extension?.resume_token_ids.length ?? 0; index < tokens; index++) {
    if ("afterTokens" in behaviour && index >= behaviour.afterTokens) {
      if (behaviour.kind === "stalls") return;
      if (behaviour.kind === "garbage") response.end("data: <html>\n\n");
      if (behaviour.kind === "fails") response.end('data: {"error":{"message":"out of memory"}}\n\n');
      if (behaviour.kind === "dies") response.destroy();
      return;
    }
    if (model.tokenMs > 0) await sleep(model.tokenMs);
    if (response.destroyed) return;
    const isLast = index === tokens - 1;
    const event = attachTokens(chunk(piece(wordOf(prompt, index)), isLast ? "length" : null), [1000 + index]);
    if (isLast && event.pilotlight !== undefined) event.pilotlight.prompt_tokens = prompt.length;
    // A slow reader is waited for, as a real worker does.
    if (!response.write(encodeSse(event))) await new Promise((resolve) => response.once("drain", resolve));
  }
  const options = body.stream_options as { include_usage?: boolean } | undefined;
  if (options?.include_usage)
    response.write(encodeSse({ ...head, choices: [], usage: usageOf(prompt, tokens) }));
  response.end(SSE_DONE);
}

function embeddingsOf(body: Record<string, unknown>, model: FakeModel) {
  const inputs = Array.isArray(body.input) ? body.input : [body.input];
  const vector = Float32Array.from([0.25, -1, 2]);
  const embedding =
    body.encoding_format === "base64" ? Buffer.from(vector.buffer).toString("base64") : [...vector];
  return {
    object: "list",
    model: model.name,
    data: inputs.map((_, index) => ({ object: "embedding", index, embedding })),
    usage: { prompt_tokens: inputs.length, total_tokens: inputs.length },
  };
}
