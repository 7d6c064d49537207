// Turns what the schema objects to into sentences a person can act on: what is wrong, at which place, and what to do.
import { distance } from "fastest-levenshtein";
import type * as z from "zod";

/** One thing that is wrong with an application file. Lines and columns count from 1. */
export type Problem = {
  line: number;
  column: number;
  /** `deployments[0].resources.accelerators`; empty for the file as a whole. */
  path: string;
  message: string;
  /** What to do about it; empty when the message says it all. */
  remedy: string;
};

export type ProblemPath = readonly (string | number)[];

/** A problem before its place in the text is known. `onKey`: the place is the key, not the value. */
export type Finding = { path: ProblemPath; onKey: boolean; message: string; remedy: string };

/** Lists what an issue of the schema means. `keysAt` names the fields that are allowed at a path. */
export function* findingsOf(
  issue: z.core.$ZodIssue,
  keysAt: (path: ProblemPath) => string[],
): Generator<Finding> {
  const path = issue.path.filter((key): key is string | number => typeof key !== "symbol");
  if (issue.code === "unrecognized_keys") {
    const allowed = keysAt(path);
    for (const key of issue.keys) yield unknownField([...path, key], key, allowed);
    return;
  }
  if (issue.code === "invalid_key") {
    const inner = issue.issues[0]?.message ?? "is not allowed";
    yield { path, onKey: true, message: `the name ${inner}`, remedy: "" };
    return;
  }
  yield { path, onKey: false, message: messageOf(issue), remedy: remedyOf(issue) };
}

/** `deployments[0].name`, the form that error messages and the CLI show. */
export function formatPath(path: ProblemPath): string {
  let text = "";
  for (const key of path) {
    if (typeof key === "number") text += `[${key}]`;
    else text += text === "" ? key : `.${key}`;
  }
  return text;
}

function unknownField(path: ProblemPath, key: string, allowed: string[]): Finding {
  const near = nearest(key, allowed);
  return {
    path,
    onKey: true,
    message: `unknown field "${key}"`,
    remedy:
      near !== null
        ? `Did you mean "${near}"?`
        : allowed.length > 0
          ? `Allowed here: ${allowed.join(", ")}.`
          : "Remove it.",
  };
}

/** The closest of `candidates`, if it is close enough to be a slip: a third of the letters, case aside. */
function nearest(text: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const away = distance(text.toLowerCase(), candidate.toLowerCase());
    if (away < bestDistance) {
      best = candidate;
      bestDistance = away;
    }
  }
  return best !== null && bestDistance <= Math.max(1, Math.floor(best.length / 3)) ? best : null;
}

function messageOf(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case "invalid_type":
      return issue.input === undefined
        ? `is missing; ${article(issue.expected)} is needed`
        : `must be ${article(issue.expected)}, not ${show(issue.input)}`;
    case "invalid_value":
      if (issue.input === undefined) return `is missing; ${oneOf(issue.values)} is needed`;
      return `must be ${oneOf(issue.values)}, not ${show(issue.input)}`;
    case "too_small":
      return limit(issue.origin, "at least", issue.minimum, issue.input, issue.message);
    case "too_big":
      return limit(issue.origin, "at most", issue.maximum, issue.input, issue.message);
    case "invalid_union":
      return unionMessage(issue);
    default:
      return issue.message;
  }
}

function remedyOf(issue: z.core.$ZodIssue): string {
  if (issue.code === "custom" && typeof issue.params?.remedy === "string") return issue.params.remedy;
  if (issue.code === "invalid_value" && typeof issue.input === "string") {
    const near = nearest(
      issue.input,
      issue.values.filter((value) => typeof value === "string"),
    );
    return near === null ? "" : `Did you mean "${near}"?`;
  }
  if (issue.code === "invalid_type" && issue.expected === "string" && isScalar(issue.input)) {
    return `Put it in quotes: "${String(issue.input)}".`;
  }
  return "";
}

function unionMessage(issue: z.core.$ZodIssueInvalidUnion): string {
  if (issue.discriminator !== undefined && "options" in issue && issue.options !== undefined) {
    return `must be ${oneOf(issue.options)}`;
  }
  const alternatives = issue.errors.map((errors) => errors[0]).filter((first) => first !== undefined);
  return alternatives.map(messageOf).join(", or ");
}

function limit(
  origin: string,
  bound: string,
  value: number | bigint,
  input: unknown,
  custom: string,
): string {
  if (origin === "number" || origin === "int") return `must be ${bound} ${value}, not ${show(input)}`;
  if (origin === "string") return `must have ${bound} ${value} characters`;
  if (origin === "array") return `must have ${bound} ${value} entries`;
  return custom;
}

const NAMES: Record<string, string> = {
  int: "a whole number",
  number: "a number",
  string: "text",
  object: "a mapping",
  record: "a mapping",
  array: "a list",
  boolean: "true or false",
};
const article = (expected: string): string => NAMES[expected] ?? expected;
const oneOf = (values: readonly unknown[]): string => values.map((value) => show(value)).join(" or ");
const isScalar = (value: unknown) => typeof value === "number" || typeof value === "boolean";

function show(value: unknown): string {
  if (value === null) return "empty";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "a mapping";
  if (typeof value === "string") return value.length > 60 ? `"${value.slice(0, 57)}…"` : `"${value}"`;
  return String(value);
}
