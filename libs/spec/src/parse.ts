// From text to a checked application, or to every problem of the text at once, each with its line and column.
//
// The text is hostile: its size, its nesting and what its aliases expand to are bounded before anything is built
// (a "billion laughs" file is a few hundred bytes). YAML 1.2 core schema: `no` is a word, not false.
import { isAlias, isCollection, isMap, isNode, isScalar, LineCounter, type Node, parseDocument } from "yaml";
import { z } from "zod";
import { type Finding, findingsOf, formatPath, type Problem, type ProblemPath } from "./problem.ts";
import { type Application, applicationSchema } from "./schema.ts";

export type ParseOptions = {
  /** Shown in messages; not opened. */
  fileName: string;
  /** Largest text that is looked at, in UTF-16 code units. */
  textLengthMax?: number;
  /** Problems reported at most; a last one says how many more there are. */
  problemsMax?: number;
};

export type Parsed = { application: Application } | { problems: Problem[] };

const TEXT_LENGTH_MAX = 256 * 1024;
const PROBLEMS_MAX = 100;
const DEPTH_MAX = 32;
const ALIASES_MAX = 100;
/** Nodes of the document with every alias counted as what it stands for. */
const NODES_MAX = 100_000;

/** Parses and checks an application file. Never throws for what the text contains. */
export function parseApplication(text: string, options: ParseOptions): Parsed {
  const lengthMax = options.textLengthMax ?? TEXT_LENGTH_MAX;
  if (text.length > lengthMax) {
    return {
      problems: [atStart(`${options.fileName} has ${text.length} characters; the limit is ${lengthMax}`)],
    };
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  const place = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  if (document.errors.length > 0) {
    if (document.errors.some((error) => /call stack/.test(error.message))) {
      return { problems: [{ ...atStart(`nested deeper than ${DEPTH_MAX} levels`), remedy: "Flatten it." }] };
    }
    const problems = document.errors.map((error) => ({
      ...place(error.pos[0]),
      path: "",
      message: syntaxMessage(error.message),
      remedy: SYNTAX_REMEDIES[error.code] ?? "",
    }));
    return { problems: finish(problems, options) };
  }
  const root = document.contents;
  if (root === null || (isScalar(root) && root.value === null)) {
    return {
      problems: [{ ...atStart(`${options.fileName} is empty`), remedy: 'Start with "application: NAME".' }],
    };
  }
  const excess = tooLarge(root);
  if (excess !== null) return { problems: [{ ...place(excess.offset), ...excess.problem }] };

  const checked = applicationSchema.safeParse(document.toJS({ maxAliasCount: ALIASES_MAX }), {
    reportInput: true,
  });
  if (checked.success) return { application: checked.data };
  const findings = checked.error.issues.flatMap((issue) =>
    findingsOf(issue, (path) => allowedKeys(root, path)),
  );
  const problems = findings.map((finding) => ({
    ...place(offsetOf(root, finding)),
    path: formatPath(finding.path),
    message: finding.message,
    remedy: finding.remedy,
  }));
  return { problems: finish(problems, options) };
}

/** `chat.yaml:3:5: deployments[0].name: must be text, not 3. Put it in quotes: "3".` */
export function formatProblem(problem: Problem, fileName: string): string {
  const where = problem.path === "" ? "" : `${problem.path}: `;
  const remedy = problem.remedy === "" ? "" : `\n  ${problem.remedy}`;
  return `${fileName}:${problem.line}:${problem.column}: ${where}${problem.message}${remedy}`;
}

const atStart = (message: string): Problem => ({ line: 1, column: 1, path: "", message, remedy: "" });

/** In the order of the text, without repetitions, not more than a person wants to read. */
function finish(problems: Problem[], options: ParseOptions): Problem[] {
  const most = options.problemsMax ?? PROBLEMS_MAX;
  const seen = new Set<string>();
  const distinct = problems.filter((problem) => {
    const key = `${problem.line}:${problem.column}:${problem.path}:${problem.message}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
  distinct.sort((a, b) => a.line - b.line || a.column - b.column);
  const last = distinct[most - 1];
  if (distinct.length <= most || last === undefined) return distinct;
  const more = { ...last, path: "", message: `${distinct.length - most} more problems`, remedy: "" };
  return [...distinct.slice(0, most), more];
}

/** The parser's sentence, without its own position text. */
const syntaxMessage = (message: string) =>
  message
    .replace(/ at line \d+, column \d+:?[\s\S]*$/, "")
    .replace(/; please use .*$/, "")
    .slice(0, 200);

const SYNTAX_REMEDIES: Record<string, string> = {
  TAB_AS_INDENT: "Indent with spaces.",
  BAD_INDENT: "Give all keys of one mapping the same indentation.",
  DUPLICATE_KEY: "Remove one of the two.",
  MULTIPLE_DOCS: "Put one application in one file.",
  MISSING_CHAR: "A quote, bracket, colon or comma is missing here or before.",
  BLOCK_AS_IMPLICIT_KEY: "Text that contains a colon and a space must stand in quotes.",
  MULTILINE_IMPLICIT_KEY: "A colon is missing, or the indentation is wrong.",
};

type Excess = { offset: number; problem: Omit<Problem, "line" | "column"> };

/**
 * Refuses documents that are too deep or whose aliases expand to too much, before they are expanded. Anchors come
 * before their aliases in the text, so one pass in order knows the size of each alias.
 */
function tooLarge(root: Node): Excess | null {
  const sizes = new Map<string, number>();
  let aliases = 0;
  const size = (node: unknown, depth: number): number | Excess => {
    const offset = isNode(node) ? (node.range?.[0] ?? 0) : 0;
    const refuse = (message: string, remedy: string): Excess => ({
      offset,
      problem: { path: "", message, remedy },
    });
    if (depth > DEPTH_MAX) return refuse(`nested deeper than ${DEPTH_MAX} levels`, "Flatten it.");
    if (isAlias(node)) {
      aliases++;
      if (aliases > ALIASES_MAX) return refuse(`more than ${ALIASES_MAX} aliases`, "Write them out.");
      return (
        sizes.get(node.source) ??
        refuse(`alias *${node.source} refers to itself or to nothing`, "Write it out.")
      );
    }
    let total = 1;
    if (isCollection(node)) {
      for (const item of node.items) {
        const parts = isNode(item)
          ? [item]
          : [(item as { key: unknown }).key, (item as { value: unknown }).value];
        for (const part of parts) {
          const inner = size(part, depth + 1);
          if (typeof inner !== "number") return inner;
          total += inner;
          if (total > NODES_MAX)
            return refuse(`aliases expand to more than ${NODES_MAX} values`, "Write less.");
        }
      }
    }
    if (isNode(node) && "anchor" in node && typeof node.anchor === "string") sizes.set(node.anchor, total);
    return total;
  };
  const result = size(root, 0);
  return typeof result === "number" ? null : result;
}

/** Where in the text a finding is: its key, its value, or the nearest parent that exists. */
function offsetOf(root: Node, finding: Finding): number {
  let node: unknown = root;
  let offset = root.range?.[0] ?? 0;
  for (const [index, key] of finding.path.entries()) {
    if (!isCollection(node)) break;
    const isLast = index === finding.path.length - 1;
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => String(isScalar(item.key) ? item.key.value : item.key) === String(key),
      );
      if (pair === undefined) break;
      if (isNode(pair.key)) offset = pair.key.range?.[0] ?? offset;
      if (isLast && finding.onKey) return offset;
      node = pair.value;
    } else {
      node = node.get(key, true);
    }
    if (isNode(node) && node.range) offset = node.range[0];
  }
  return offset;
}

/** The field names that the schema allows at `path`, for "did you mean". */
function allowedKeys(root: Node, path: ProblemPath): string[] {
  let schema: z.core.$ZodType = applicationSchema;
  let node: unknown = root;
  for (const key of path) {
    const inside = unwrap(schema, node);
    if (inside instanceof z.ZodArray) schema = inside.element;
    else if (inside instanceof z.ZodObject) schema = inside.shape[key] ?? schema;
    else return [];
    node = isCollection(node) ? node.get(key, true) : undefined;
  }
  const inside = unwrap(schema, node);
  return inside instanceof z.ZodObject ? Object.keys(inside.shape) : [];
}

/** Takes off defaults and optionality, and chooses the branch of a union by the document's own `kind`. */
function unwrap(schema: z.core.$ZodType, node: unknown): z.core.$ZodType {
  if (schema instanceof z.ZodOptional || schema instanceof z.ZodDefault || schema instanceof z.ZodPrefault) {
    return unwrap(schema.unwrap(), node);
  }
  if (schema instanceof z.ZodDiscriminatedUnion) {
    const kind = isMap(node) ? node.get("kind") : undefined;
    return (
      schema.options.find(
        (option) => option instanceof z.ZodObject && option.shape["kind"]?.safeParse(kind).success === true,
      ) ?? schema
    );
  }
  return schema;
}
