// The end of what a process said before it ended, for the message of its failure.
import { open } from "node:fs/promises";

const TAIL_BYTES = 4_096;
const LINES_MAX = 8;

/** The last lines of the first of these files that has any; empty when none has. */
export async function lastLinesOf(files: readonly string[]): Promise<string> {
  for (const file of files) {
    const lines = await tailOf(file).catch(() => "");
    if (lines !== "") return lines;
  }
  return "";
}

async function tailOf(file: string): Promise<string> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const from = Math.max(0, size - TAIL_BYTES);
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(size - from), 0, size - from, from);
    const lines = buffer.toString("utf8", 0, bytesRead).trim().split("\n");
    return (from === 0 ? lines : lines.slice(1)).slice(-LINES_MAX).join("\n");
  } finally {
    await handle.close();
  }
}
