// What happens now: redrawn in place where a person looks on, as plain lines, each fact once, everywhere else.
import { stripVTControlCharacters } from "node:util";
import type { Terminal } from "../terminal.ts";

export type ViewLine = {
  /** What the line is about: the same thing keeps its key. */
  key: string;
  /** With everything that changes all the time. */
  text: string;
  /** Without it: a plain line is written when this changes. */
  fact: string;
};

export type LiveView = {
  show(lines: readonly ViewLine[]): void;
  /** Leaves the last picture and goes on below it. */
  end(): void;
};

/** A view on `terminal`. */
export function createLiveView(terminal: Terminal): LiveView {
  if (!terminal.isLive) return plainView(terminal);
  let drawn = 0;
  return {
    show(lines) {
      const clipped = lines.map(({ text }) => clip(text, terminal.columns - 1));
      terminal.draw(
        `${drawn > 0 ? `\x1b[${drawn}A` : ""}\x1b[J${clipped.map((line) => `${line}\n`).join("")}`,
      );
      drawn = clipped.length;
    },
    end() {
      drawn = 0;
    },
  };
}

function plainView(terminal: Terminal): LiveView {
  const said = new Map<string, string>();
  return {
    show(lines) {
      for (const { key, fact } of lines) {
        if (said.get(key) === fact) continue;
        said.set(key, fact);
        terminal.err(fact);
      }
    },
    end() {},
  };
}

const clip = (text: string, columns: number): string =>
  stripVTControlCharacters(text).length <= columns
    ? text
    : `${stripVTControlCharacters(text).slice(0, columns - 1)}…`;
