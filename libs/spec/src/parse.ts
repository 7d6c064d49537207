// From text to a checked application, or to every problem of the text at once, each with its line and column.
//
// The text is hostile: its size, its nesting and what its aliases expand to are bounded before anything is built
// (a "billion laughs" file is a few hundred bytes). YAML 1.2 core schema: `no` is a word, not false.
import { isCollection, isMap, isNode, isScalar, LineCounter, type Node, parseDocument } from "yaml";
import * as z from "zod";
import { type Finding, findingsOf, formatPath, type Problem, type ProblemPath } from "./problem.ts";
import { type Application, applicationSchema } from "./schema.ts";
import { checkStructure, DEPTH_MAX } from "./structure.ts";

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
/** Findings that are looked up in the text at all: bounds the time that a hostile file takes. */
const FINDINGS_MAX = 1000;

/** Parses and checks an application file. Never throws for what the text contains. */
export function parseApplication(text: string, options: ParseOptions): Parsed {
  const lengthMax = options.textLengthMax ?? TEXT_LENGTH_MAX;
  if (text.length > lengthMax) {
    return {
      problems: [atStart(`${options.fileName} has ${text.length} characters; the limit is ${lengthMax}`)],
    };
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false });
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
  const flaws = checkStructure(root).map(({ offset, fatal, message, remedy }) => {
    return { fatal, problem: { ...place(offset), path: "", message, remedy } };
  });
  const structural = flaws.map((flaw) => flaw.problem);
  if (flaws.some((flaw) => flaw.fatal)) return { problems: finish(structural, options) };

  // The walk above has bounded what aliases expand to, so the library need not count them again.
  const checked = applicationSchema.safeParse(document.toJS({ maxAliasCount: -1 }), { reportInput: true });
  if (checked.success && structural.length === 0) return { application: checked.data };
  const findings = (checked.error?.issues ?? [])
    .values()
    .flatMap((issue) => findingsOf(issue, (path) => allowedKeys(root, path)))
    .take(FINDINGS_MAX)
    .map((finding) => ({
      ...place(offsetOf(root, finding)),
      path: formatPath(finding.path),
      message: finding.message,
      remedy: finding.remedy,
    }));
  const problems = [...structural, ...findings];
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
  MULTIPLE_DOCS: "Put one application in one file.",
  MISSING_CHAR: "A quote, bracket, colon or comma is missing here or before.",
  BLOCK_AS_IMPLICIT_KEY: "Text that contains a colon and a space must stand in quotes.",
  MULTILINE_IMPLICIT_KEY: "A colon is missing, or the indentation is wrong.",
};

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
        (option) => option instanceof z.ZodObject && option.shape.kind?.safeParse(kind).success === true,
      ) ?? schema
    );
  }
  return schema;
}
