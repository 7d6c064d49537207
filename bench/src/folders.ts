// The folders of a run, on disk and in memory, and what becomes of them: whatever ends the run, nothing of it stays. A run that is
// killed leaves it to the next one.
import { chmod, mkdir, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { giveUp } from "../image/disk.ts";
import { nameOf, RUN_MARK, removeFolder, removeLeftovers } from "./leftovers.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** What does not end by then is ended without being asked. */
const END_TIMEOUT_MS = 30_000;

export type Folders = {
  /** On this machine's disk. */
  scratch: string;
  /** In its memory. */
  memory: string;
};

/**
 * Does a benchmark's work in folders whose names begin so. `end` ends in order what the work has started: it is called when the
 * work is over, however that came.
 */
export async function inFolders<T>(
  prefix: string,
  end: () => Promise<void>,
  work: (folders: Folders) => Promise<T>,
): Promise<T> {
  await removeLeftovers(prefix);
  const scratch = await mkdtemp(join(tmpdir(), nameOf(prefix)));
  const memory = join("/dev/shm", basename(scratch));
  await mkdir(memory);
  // Programs of images run under accounts of their own.
  for (const folder of [scratch, memory]) await chmod(folder, 0o755);
  process.env[RUN_MARK] = scratch;
  let cleaning: Promise<void> | undefined;
  const clean = () => {
    cleaning ??= (async () => {
      await Promise.race([end().catch(() => {}), sleep(END_TIMEOUT_MS, undefined, { ref: false })]);
      await giveUp();
      for (const folder of [scratch, memory]) await removeFolder(folder);
      delete process.env[RUN_MARK];
    })();
    return cleaning;
  };
  const interrupted = () => void clean().finally(() => process.exit(130));
  for (const signal of SIGNALS) process.once(signal, interrupted);
  try {
    return await work({ scratch, memory });
  } finally {
    for (const signal of SIGNALS) process.off(signal, interrupted);
    await clean();
  }
}
