// A repository as a source: its files, what pins them, and the terms that come with it.
import { createHash } from "node:crypto";
import type { ObjectInfo, ObjectStore } from "@pilotlight/object-store";
import { cardLicence, cardLink, planMirror } from "./mirror.ts";
import type { ModelRecord } from "./record.ts";
import type { RepositoryFile } from "./repository-file.ts";

const CARD_FILE = "README.md";
const CARD_BYTES_MAX = 4 * 1024 * 1024;
/** Files that hold terms, by the usual names. */
const TERMS_FILE = /^(licen[cs]e|notice|terms|use_?policy)[^/]*$/i;

export type RepositorySource = {
  /** The commit, else a digest of all files' names and ETags: changes whenever a file does. */
  revision: string;
  licence: string;
  terms: NonNullable<ModelRecord["terms"]>;
  /** What is taken over, each pinned: a file that is replaced during the copy is an error, not a mixture. */
  files: RepositoryFile[];
};

/** Lists the source. Throws `planMirror`'s errors, and the store's. */
export async function readRepositorySource(
  from: ObjectStore,
  signal: AbortSignal | undefined,
): Promise<RepositorySource> {
  const options = signal === undefined ? {} : { signal };
  const infos = new Map<string, ObjectInfo>();
  for await (const info of from.list(options)) infos.set(info.key, info);
  const { copied } = planMirror([...infos.keys()]);
  const files = copied.map((name): RepositoryFile => {
    const { size, etag } = infos.get(name) as ObjectInfo;
    const open = async function* () {
      yield* (await from.stream(name, { ifMatch: etag, ...options })).body;
    };
    return { name, bytes: size, open };
  });
  const card = copied.includes(CARD_FILE)
    ? Buffer.from((await from.get(CARD_FILE, { bytesMax: CARD_BYTES_MAX, ...options })).bytes).toString(
        "utf8",
      )
    : "";
  return {
    revision: (await from.revision?.(options)) ?? listingDigest([...infos.values()]),
    licence: cardLicence(card) ?? "unknown",
    terms: { files: copied.filter((name) => TERMS_FILE.test(name)), link: cardLink(card) ?? null },
    files,
  };
}

function listingDigest(infos: readonly ObjectInfo[]): string {
  const hash = createHash("sha256");
  for (const { key, etag } of infos) hash.update(`${key}\0${etag}\0`);
  return `listing:${hash.digest("hex").slice(0, 32)}`;
}
