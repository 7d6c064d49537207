// Checks a request body and names the field that is wrong, the way clients of the API expect it (`param`).
import { PlatformError } from "@pilotlight/errors";
import type * as z from "zod";
import {
  type ChatCompletionRequest,
  type CompletionRequest,
  chatCompletionRequest,
  completionRequest,
  type EmbeddingsRequest,
  embeddingsRequest,
} from "./requests.ts";

export type Checked<T> = { kind: "valid"; request: T } | { kind: "invalid"; error: PlatformError };

export const checkChatCompletion = (body: unknown): Checked<ChatCompletionRequest> =>
  check(chatCompletionRequest, body);
export const checkCompletion = (body: unknown): Checked<CompletionRequest> => check(completionRequest, body);
export const checkEmbeddings = (body: unknown): Checked<EmbeddingsRequest> => check(embeddingsRequest, body);

function check<T>(schema: z.ZodType<T>, body: unknown): Checked<T> {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return { kind: "invalid", error: new PlatformError("invalidArgument", "the body must be a JSON object") };
  }
  const result = schema.safeParse(body, { reportInput: true });
  if (result.success) return { kind: "valid", request: result.data };
  // One field at a time, as the API does it: the first in the order of the schema.
  const issue = result.error.issues[0];
  const field = issue === undefined ? "" : formatField(issue.path);
  const message = issue === undefined ? "is not valid" : describe(issue);
  return { kind: "invalid", error: new PlatformError("invalidArgument", `${field} ${message}`, { field }) };
}

function describe(issue: z.core.$ZodIssue): string {
  if ("input" in issue && issue.input === undefined) return "is missing";
  switch (issue.code) {
    case "invalid_type":
      return `must be ${issue.expected === "int" ? "a whole number" : `of type ${issue.expected}`}`;
    case "invalid_value":
      return `must be one of ${issue.values.map((value) => JSON.stringify(value)).join(", ")}`;
    case "too_small":
      return `must be at least ${issue.minimum}${unit(issue.origin)}`;
    case "too_big":
      return `must be at most ${issue.maximum}${unit(issue.origin)}`;
    default:
      return issue.message;
  }
}

const unit = (origin: string) =>
  origin === "string" ? " characters long" : origin === "array" ? " entries long" : "";

function formatField(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) =>
      typeof key === "number" ? `${text}[${key}]` : text === "" ? String(key) : `${text}.${String(key)}`,
    "",
  );
}
