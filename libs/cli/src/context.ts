// What every command has: the global options, the platform's client, and one way to print a result.
import { type ControlClient, controlClient } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { type Endpoints, findEndpoints } from "./endpoints.ts";
import type { Terminal } from "./terminal.ts";

export type GlobalOptions = { url?: string; json?: boolean };

export type Context = {
  terminal: Terminal;
  json: boolean;
  endpoints: Endpoints;
  client: ControlClient;
  /** Prints a result: as JSON for machines, as these lines for people. */
  show(value: unknown, lines: () => readonly string[]): void;
  /** One line of a stream of results. */
  showLine(value: unknown, line: () => string): void;
};

const TIMEOUT_MS = 30_000;

/** The context of a command. */
export function makeContext(terminal: Terminal, options: GlobalOptions): Context {
  const endpoints = findEndpoints(terminal, options.url);
  const json = options.json ?? false;
  return {
    terminal,
    json,
    endpoints,
    client: controlClient({
      url: endpoints.controlUrl,
      token: terminal.env.PILOTLIGHT_TOKEN,
      timeoutMs: TIMEOUT_MS,
    }),
    show(value, lines) {
      if (json) terminal.out(JSON.stringify(value, null, 2));
      else for (const line of lines()) terminal.out(line);
    },
    showLine(value, line) {
      terminal.out(json ? JSON.stringify(value) : line());
    },
  };
}

/** A number from the command line. Throws `invalidArgument` naming the option. */
export function wholeNumber(text: string, option: string, min = 0): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= min) return value;
  throw new PlatformError("invalidArgument", `${option} must be a whole number from ${min}, not '${text}'`);
}
