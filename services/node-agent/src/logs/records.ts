// From bytes of a log file to records: lines, with the lines of a stack trace kept together. Pure, and a function of the
// bytes alone, so the same bytes always give the same records.

export type Records = {
  records: string[];
  /** How many of the bytes the records cover; the rest waits for more. */
  consumed: number;
};

export type RecordLimits = {
  /** Longer lines are split. */
  lineBytesMax: number;
  recordsMax: number;
};

/** Lines of one record at most; an endless trace is cut into several. */
const LINES_PER_RECORD_MAX = 256;
const NEWLINE = 0x0a;

type Open = { lines: string[]; end: number; inTraceback: boolean };

/**
 * What comes behind the bytes: `silence`, the writer has paused or is gone; `end`, the file ends here but may grow any
 * moment; `more`, the file goes on.
 */
export type Behind = "silence" | "end" | "more";

/** Cuts `bytes` into records. A line without its end, and a plain record that may go on, wait except in silence. */
export function cutRecords(bytes: Buffer, behind: Behind, limits: RecordLimits): Records {
  const records: string[] = [];
  let consumed = 0;
  let open: Open | undefined;
  const close = () => {
    if (open === undefined) return;
    records.push(open.lines.join("\n"));
    consumed = open.end;
    open = undefined;
  };
  for (const { text, end } of linesOf(bytes, behind === "silence", limits.lineBytesMax)) {
    if (text.trim() === "") {
      // Blank lines carry nothing, and often stand inside of traces.
      if (open === undefined) consumed = end;
      else open.end = end;
      continue;
    }
    if (open !== undefined && open.lines.length < LINES_PER_RECORD_MAX && continues(open, text)) {
      open.lines.push(text);
      open.end = end;
      open.inTraceback = open.inTraceback ? /^\s/.test(text) : isTracebackHead(text);
      continue;
    }
    close();
    if (records.length >= limits.recordsMax) return { records, consumed };
    open = { lines: [text], end, inTraceback: isTracebackHead(text) };
    if (text.startsWith("{") && text.endsWith("}")) close(); // structured: complete in itself
  }
  // A record that fills a whole piece of a file that goes on cannot wait: there is no room for its rest.
  if (behind === "silence" || (behind === "more" && consumed === 0)) close();
  return { records, consumed };
}

function* linesOf(
  bytes: Buffer,
  isLast: boolean,
  lineBytesMax: number,
): Generator<{ text: string; end: number }> {
  let start = 0;
  while (start < bytes.length) {
    const newline = bytes.indexOf(NEWLINE, start);
    const stop = newline === -1 ? bytes.length : newline;
    if (stop - start > lineBytesMax) {
      const cut = characterBoundary(bytes, start + lineBytesMax);
      yield { text: bytes.toString("utf8", start, cut), end: cut };
      start = cut;
      continue;
    }
    if (newline === -1 && !isLast) return;
    yield {
      text: bytes.toString("utf8", start, stop).replace(/\r$/, ""),
      end: newline === -1 ? stop : newline + 1,
    };
    start = stop + 1;
  }
}

/** The last boundary between two UTF-8 characters at or before `at`. */
function characterBoundary(bytes: Buffer, at: number): number {
  for (let back = 0; back < 4; back++) if (((bytes[at - back] ?? 0) & 0xc0) !== 0x80) return at - back;
  return at;
}

const isTracebackHead = (line: string): boolean => line.includes("Traceback (most recent call last):");
const CONTINUES =
  /^(?:\s|Caused by: |\.\.\. \d+ more|During handling of the above|The above exception was|note: |stack backtrace:|Node\.js v\d)/;

/** How runtimes write what belongs to the line before: Java and Node indent, Python ends unindented, Rust says it first. */
function continues(open: Open, line: string): boolean {
  const last = open.lines.at(-1) ?? "";
  return (
    CONTINUES.test(line) ||
    open.inTraceback ||
    (isTracebackHead(line) && /^(?:During handling|The above exception)/.test(last)) ||
    (/^\s*\^+\s*$/.test(last) && /^(?:Uncaught )?\w*(?:Error|Exception)\b/.test(line)) ||
    / panicked at .*:$/.test(last)
  );
}
