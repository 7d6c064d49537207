// Writes a repository into a store: every file streamed, digested on the way, and the record last. A repository that
// has its record is complete; one without it is written again from the start.
import { PlatformError } from "@pilotlight/errors";
import type { ObjectStore } from "@pilotlight/object-store";
import { Digester, type ModelRecord, parseModelRecord, RECORD_BYTES_MAX, RECORD_FILE } from "./record.ts";
import type { RepositoryFile } from "./repository-file.ts";

export type WriteProgress = (progress: { file: string; bytesDone: number; bytesTotal: number }) => void;

/** A record without what writing finds out. */
export type RecordHead = Omit<ModelRecord, "format" | "files" | "addedAt">;

/** What is only known when the other files have been written: more files, and more of the record. */
export type Afterwards = { files: readonly RepositoryFile[]; head: Partial<RecordHead> };

export type WriteOptions = {
  onProgress: WriteProgress;
  signal: AbortSignal | undefined;
  /** Called when `files` are written. */
  afterwards?: () => Promise<Afterwards>;
};

/** Writes all files, then the record. */
export async function writeRepository(
  to: Pick<ObjectStore, "put">,
  head: RecordHead,
  files: readonly RepositoryFile[],
  options: WriteOptions,
): Promise<ModelRecord> {
  const digests = await writeFiles(to, files, options);
  const late = await options.afterwards?.();
  if (late !== undefined) Object.assign(digests, await writeFiles(to, late.files, options));
  const record: ModelRecord = {
    format: "pilotlight-model-1",
    ...head,
    ...late?.head,
    addedAt: new Date().toISOString(),
    files: digests,
  };
  await to.put(RECORD_FILE, `${JSON.stringify(record, null, 2)}\n`, {
    contentType: "application/json",
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
  return record;
}

async function writeFiles(
  to: Pick<ObjectStore, "put">,
  files: readonly RepositoryFile[],
  options: WriteOptions,
): Promise<ModelRecord["files"]> {
  const bytesTotal = files.reduce((sum, { bytes }) => sum + bytes, 0);
  const digests: ModelRecord["files"] = {};
  const signal = options.signal === undefined ? {} : { signal: options.signal };
  let bytesDone = 0;
  for (const file of files) {
    const digester = new Digester();
    const body = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of file.open()) {
        digester.update(chunk);
        bytesDone += chunk.byteLength;
        yield chunk;
        options.onProgress({ file: file.name, bytesDone, bytesTotal });
      }
    };
    await to.put(file.name, body(), { contentType: contentType(file.name), ...signal });
    const digest = digester.finish();
    if (digest.bytes !== file.bytes) {
      throw new PlatformError(
        "corrupt",
        `${file.name} has ${digest.bytes} bytes, ${file.bytes} were announced`,
      );
    }
    digests[file.name] = digest;
  }
  return digests;
}

/** The record of a complete repository; undefined when there is none or one of its files is missing. */
export async function readRepository(
  store: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<ModelRecord | undefined> {
  const options = signal === undefined ? {} : { signal };
  if ((await store.head(RECORD_FILE, options)) === undefined) return undefined;
  const { bytes } = await store.get(RECORD_FILE, { bytesMax: RECORD_BYTES_MAX, ...options });
  const record = parseModelRecord(Buffer.from(bytes).toString("utf8"));
  for (const [name, { bytes }] of Object.entries(record.files)) {
    if ((await store.head(name, options))?.size !== bytes) return undefined;
  }
  return record;
}

function contentType(name: string): string {
  if (name.endsWith(".json")) return "application/json";
  return /\.(md|txt|jinja)$|^(LICENSE|NOTICE)$/.test(name)
    ? "text/plain; charset=utf-8"
    : "application/octet-stream";
}
