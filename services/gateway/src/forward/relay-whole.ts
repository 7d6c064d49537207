// Answers that come in one piece. They are held back until they are whole, so that a replica that dies in the middle costs
// the client nothing: another one computes the answer anew. Only answers beyond the buffer's limit are passed on as they
// come; cutting such a one is visible to the client.
import type { OutgoingHttpHeaders } from "node:http";
import { PlatformError } from "@pilotlight/errors";
import { DRAINING_HEADER } from "@pilotlight/openai";
import type { AnswerHead, UpstreamCall } from "../adapters/upstream.ts";
import type { Exchange } from "./exchange.ts";
import type { Outcome } from "./outcome.ts";

export type WholeLimits = { answerTimeoutMs: number; answerBufferBytesMax: number };

/** Statuses after which another replica may do better. */
const RETRYABLE = new Set([408, 429, 500, 502, 503, 504]);
const PASSED_HEADERS = ["content-type", "retry-after", "retry-after-ms", "x-should-retry"] as const;

/** Relays an answer whose head has come. */
export async function relayWhole(
  exchange: Exchange,
  head: AnswerHead,
  call: UpstreamCall,
  limits: WholeLimits,
): Promise<Outcome> {
  const headers = passedHeaders(head);
  const parts: Buffer[] = [];
  let held = 0;
  for (;;) {
    const part = await call.next(limits.answerTimeoutMs);
    if (part === null) break;
    parts.push(part);
    held += part.length;
    if (held > limits.answerBufferBytesMax && head.status === 200 && exchange.reply.headSentAt === null)
      return passOn(exchange, head, headers, parts, call, limits);
  }
  const body = Buffer.concat(parts);
  if (RETRYABLE.has(head.status)) {
    if (head.headers[DRAINING_HEADER] !== undefined) return { kind: "draining" };
    return refused(head, headers, body);
  }
  // The client is in the middle of a stream: no other answer can be sent any more.
  if (exchange.reply.headSentAt !== null) return refused(head, headers, body);
  if (head.status === 200 && !looksLikeJsonObject(head, body)) {
    return {
      kind: "broken",
      error: new PlatformError("corrupt", "the replica's answer is not a JSON object"),
    };
  }
  countUsage(exchange, body);
  exchange.firstByteAt = Date.now();
  exchange.reply.sendWhole(head.status, { ...headers, ...exchange.origin }, body);
  return { kind: "done" };
}

function refused(head: AnswerHead, headers: OutgoingHttpHeaders, body: Buffer): Outcome {
  const error = new PlatformError("unavailable", `the replica answered ${head.status}`);
  return { kind: "refused", error, answer: { status: head.status, headers, body } };
}

/** A large answer: from here on nothing can be taken back. */
async function passOn(
  exchange: Exchange,
  head: AnswerHead,
  headers: OutgoingHttpHeaders,
  parts: Buffer[],
  call: UpstreamCall,
  limits: WholeLimits,
): Promise<Outcome> {
  const { reply } = exchange;
  const length = head.headers["content-length"];
  exchange.firstByteAt = Date.now();
  reply.begin(head.status, {
    ...headers,
    ...exchange.origin,
    ...(length === undefined ? {} : { "content-length": length }),
  });
  let last: Buffer = Buffer.concat(parts);
  try {
    for (let part: Buffer | null = last; part !== null; part = await call.next(limits.answerTimeoutMs)) {
      last = part;
      await reply.write(part);
    }
  } catch (error) {
    if (reply.gone) return { kind: "clientGone" };
    return { kind: "lost", error: error as PlatformError };
  }
  countUsage(exchange, last);
  reply.end();
  return { kind: "done" };
}

function passedHeaders(head: AnswerHead): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {};
  for (const name of PASSED_HEADERS) {
    const value = head.headers[name];
    if (value !== undefined) headers[name] = String(value);
  }
  return headers;
}

const OPENING = "{".charCodeAt(0);
const CLOSING = "}".charCodeAt(0);

/** Enough to tell an answer from a proxy's page or a cut text, without parsing megabytes of numbers. */
function looksLikeJsonObject(head: AnswerHead, body: Buffer): boolean {
  if (!String(head.headers["content-type"] ?? "").includes("json")) return false;
  let end = body.length - 1;
  while (end > 0 && (body[end] ?? 0) <= 0x20) end--;
  let start = 0;
  while (start < end && (body[start] ?? 0) <= 0x20) start++;
  return end > start && body[start] === OPENING && body[end] === CLOSING;
}

/** Inside a JSON string the quotes would be escaped, so this finds the object's own field. */
const USAGE_FIELD = '"usage":';
const USAGE_LENGTH_MAX = 2_048;

/** Reads the token counts out of the bytes; they serve statistics only. */
function countUsage(exchange: Exchange, body: Buffer): void {
  const at = body.lastIndexOf(USAGE_FIELD);
  if (at < 0) return;
  const text = body.toString("latin1", at, at + USAGE_LENGTH_MAX);
  exchange.promptTokens = Number(/"prompt_tokens":\s*(\d+)/.exec(text)?.[1] ?? 0);
  exchange.completionTokens = Number(/"completion_tokens":\s*(\d+)/.exec(text)?.[1] ?? 0);
}
