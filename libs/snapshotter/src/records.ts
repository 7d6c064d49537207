// The snapshotter's memory: one file a snapshot, replaced whole.
//   R1. Every change of a snapshot is one change of one file, so that a killed process leaves the state before or after.
//   R2. A change is on disk before anybody hears of it: containerd remembers what we said across a power failure.
//   R3. A file that cannot be read is set aside, and its snapshot's directory with it: the others go on, nothing is lost.
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import { decodeRecord, encodeRecord, type SnapshotRecord } from "./record.ts";

const NAME = /^([0-9]+)\.json(\.unreadable)?$/;

export type SnapshotRecords = {
  get(key: string): SnapshotRecord | undefined;
  all(): Iterable<SnapshotRecord>;
  /** Whether the directory of this ID belongs to a snapshot. */
  hasId(id: number): boolean;
  hasChildren(key: string): boolean;
  /** Writes a record; `instead`: the key that it had before. */
  save(record: SnapshotRecord, instead?: string): Promise<void>;
  remove(record: SnapshotRecord): Promise<void>;
};

/** Opens the records in `directory`, which is made. */
export async function openRecords(directory: string): Promise<SnapshotRecords> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const byKey = new Map<string, SnapshotRecord>();
  const ids = new Set<number>();
  const children = new Map<string, number>();
  const countChild = (parent: string, by: number) => {
    if (parent !== "") children.set(parent, (children.get(parent) ?? 0) + by);
  };
  const forget = (record: SnapshotRecord) => {
    byKey.delete(record.key);
    ids.delete(record.id);
    countChild(record.parent, -1);
  };
  const remember = (record: SnapshotRecord) => {
    byKey.set(record.key, record);
    ids.add(record.id);
    countChild(record.parent, 1);
  };
  for (const name of await readdir(directory)) {
    const [, id, aside] = NAME.exec(name) ?? [];
    if (id === undefined) continue;
    const record = aside === undefined ? await readRecord(join(directory, name)) : undefined;
    if (record === undefined) ids.add(Number(id));
    else remember(record);
  }
  return {
    get: (key) => byKey.get(key),
    all: () => byKey.values(),
    hasId: (id) => ids.has(id),
    hasChildren: (key) => (children.get(key) ?? 0) > 0,
    async save(record, instead = record.key) {
      await replaceFile(directory, `${record.id}.json`, encodeRecord(record));
      const before = byKey.get(instead);
      if (before !== undefined) forget(before);
      remember(record);
    },
    async remove(record) {
      await rm(join(directory, `${record.id}.json`));
      await syncDirectory(directory);
      forget(record);
    },
  };
}

async function readRecord(path: string): Promise<SnapshotRecord | undefined> {
  try {
    return decodeRecord(await readFile(path, "utf8"));
  } catch (thrown) {
    logger("snapshotter").error("a snapshot's record is not readable; it is set aside", {
      file: path,
      error: toPlatformError(thrown),
    });
    await rename(path, `${path}.unreadable`);
    return undefined;
  }
}

async function replaceFile(directory: string, name: string, text: string): Promise<void> {
  const partial = join(directory, `${name}.new`);
  const handle = await open(partial, "w", 0o600);
  try {
    await handle.writeFile(text);
    await handle.datasync();
  } finally {
    await handle.close();
  }
  await rename(partial, join(directory, name));
  await syncDirectory(directory);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
