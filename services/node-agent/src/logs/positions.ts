// How far each log file was shipped: one small file per source, replaced whole.
//   P1. The end of a batch is written down before the batch is sent. After a crash the same bytes are sent again under the
//       same ID, and recognised; other bytes are never sent under an ID that was used.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod";

const position = z.object({
  /** Which life of the file: a name of its own for every new or emptied file, never used again. */
  life: z.string(),
  /** Device and inode. */
  inode: z.string(),
  /** Digest of the first bytes, for recognising the file after the agent was away. */
  head: z.object({ bytes: z.int(), sha256: z.string() }),
  /** Everything before it was sent and kept by the bus. */
  offset: z.int(),
  /** The end of the batch that may or may not have been sent. */
  pendingEnd: z.int().optional(),
  /** Where to go on after the pending batch, when the bytes between were given up. */
  skipTo: z.int().optional(),
});

export type Position = z.infer<typeof position>;

export type Positions = {
  load(source: string): Position | undefined;
  save(source: string, position: Position): void;
  remove(source: string): void;
};

/** Keeps positions in a directory. Small and synchronous: a batch is a disk write anyway. */
export function openPositions(directory: string): Positions {
  mkdirSync(directory, { recursive: true });
  const path = (source: string) =>
    join(directory, `${createHash("sha256").update(source).digest("hex").slice(0, 32)}.json`);
  return {
    load(source) {
      try {
        return position.parse(JSON.parse(readFileSync(path(source), "utf8")));
      } catch {
        return undefined; // none yet, or cut by a power failure: the file is read from its beginning
      }
    },
    save(source, value) {
      const target = path(source);
      writeFileSync(`${target}.new`, JSON.stringify(value));
      renameSync(`${target}.new`, target);
    },
    remove: (source) => rmSync(path(source), { force: true }),
  };
}
