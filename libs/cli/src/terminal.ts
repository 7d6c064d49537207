// Where a command reads from and writes to. Results go to stdout, everything else to stderr, so that output can be piped.
import { styleText } from "node:util";

export type Terminal = {
  env: Record<string, string | undefined>;
  cwd: string;
  /** A line of the result. */
  out(line: string): void;
  /** A piece of the result, without an end of line. */
  write(text: string): void;
  /** A line for the person: progress, warnings, errors. */
  err(line: string): void;
  /** A piece for the person's screen: the live view. */
  draw(text: string): void;
  /** A person looks at stderr: live views make sense. */
  isLive: boolean;
  columns: number;
  /** Aborted by Ctrl-C. */
  interrupted: AbortSignal;
  style(format: Parameters<typeof styleText>[0], text: string): string;
};

/** The terminal of this process. Honours NO_COLOR and pipes that close early. */
export function processTerminal(): Terminal {
  const interrupt = new AbortController();
  process.once("SIGINT", () => {
    interrupt.abort();
    process.once("SIGINT", () => process.exit(130)); // asked twice: at once
  });
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0); // `pilotlight logs … | head`
    throw error;
  });
  return {
    env: process.env,
    cwd: process.cwd(),
    out: (line) => void process.stdout.write(`${line}\n`),
    write: (text) => void process.stdout.write(text),
    err: (line) => void process.stderr.write(`${line}\n`),
    draw: (text) => void process.stderr.write(text),
    isLive: process.stderr.isTTY === true && process.env.CI === undefined,
    columns: process.stdout.columns ?? 120,
    interrupted: interrupt.signal,
    style: (format, text) => styleText(format, text, { stream: process.stdout }),
  };
}
