// What a start touches first, learnt over starts: pages of chunks, named by the chunks' hashes, so that a profile of one
// version serves the next one as far as content is shared. Pure: observations in, profile out.
//   Q1. A page's score falls (DECAY) with every start that does not touch it and returns to 1 with one that does; forgotten below
//       SCORE_MIN. A page of a single start is kept, for one start is all there may be.
//   Q2. The order is that of the last start that touched the page.
import { zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import { BLOCK_BYTES } from "./chunker.ts";
import { BLOB_KINDS, type ImageIndex } from "./image-index.ts";

export const PROFILE_VERSION = 1;
/** Two starts in a row without a page, and it is forgotten. */
const SCORE_MIN = 0.2;
const DECAY = 0.4;
const RAW_BYTES_MAX = 64 << 20;

const runSchema = z.tuple([
  z.number().int().min(0),
  z.number().int().min(1),
  z.number().min(0).max(1),
  z.number().int().min(0),
]);
const profileSchema = z.object({
  formatVersion: z.literal(PROFILE_VERSION),
  /** Starts that were merged. */
  starts: z.number().int().min(1),
  /** Chunk hash → runs of [page in the chunk, pages, score, rank]. */
  chunks: z.array(z.tuple([z.string().regex(/^[0-9a-f]{64}$/), z.array(runSchema)])),
});

export type Profile = z.infer<typeof profileSchema>;

/** First page and number of pages of the data blob, in order of first touch. */
export type TouchedRuns = ReadonlyArray<readonly [page: number, pages: number]>;

type PageNote = { score: number; rank: number };

/** Adds a start to a profile. `touched` are runs of the image's data blob. */
export function mergeProfile(before: Profile | undefined, index: ImageIndex, touched: TouchedRuns): Profile {
  const notes = new Map<string, Map<number, PageNote>>();
  for (const [chunk, runs] of before?.chunks ?? []) {
    const pages = pagesOf(notes, chunk);
    for (const [page, count, score, rank] of runs)
      for (let i = 0; i < count; i++) pages.set(page + i, { score: score * DECAY, rank });
  }
  const locate = chunkLocator(index);
  touched.forEach(([first, count], rank) => {
    for (let page = first; page < first + count; page++) {
      const at = locate(page * BLOCK_BYTES);
      if (at !== undefined) pagesOf(notes, at.chunk).set(at.page, { score: 1, rank });
    }
  });
  const chunks = [...notes]
    .map(([chunk, pages]): Profile["chunks"][number] => [chunk, runsOf(pages)])
    .filter(([, runs]) => runs.length > 0);
  chunks.sort(([a], [b]) => (a < b ? -1 : 1));
  return { formatVersion: PROFILE_VERSION, starts: (before?.starts ?? 0) + 1, chunks };
}

/** Runs of the image's data blob in the order in which a start needs them; only content that this image has. */
export function hotRuns(
  profile: Profile,
  index: ImageIndex,
  bytesMax: number,
): Array<{ page: number; pages: number }> {
  const wanted = new Map(profile.chunks);
  const runs: Array<{ page: number; pages: number; rank: number }> = [];
  let offset = 0;
  for (const { sha256, rawLength, encoding } of dataChunks(index)) {
    const found = encoding === "zeros" ? undefined : wanted.get(sha256.toString("hex"));
    const first = offset / BLOCK_BYTES;
    const pages = rawLength / BLOCK_BYTES;
    const touched = found?.reduce((sum, [, count]) => sum + count, 0) ?? 0;
    // A chunk that is mostly hot is carried whole: what is left of it would be fetched again for a few pages.
    if (found !== undefined && touched >= pages * 0.75)
      runs.push({ page: first, pages, rank: Math.min(...found.map(([, , , rank]) => rank)) });
    else
      for (const [page, count, , rank] of found ?? [])
        if (page + count <= pages) runs.push({ page: first + page, pages: count, rank });
    offset += rawLength;
  }
  runs.sort((a, b) => a.rank - b.rank || a.page - b.page);
  let left = Math.floor(bytesMax / BLOCK_BYTES);
  return runs.flatMap(({ page, pages }) => {
    const taken = Math.min(pages, left);
    left -= taken;
    return taken > 0 ? [{ page, pages: taken }] : [];
  });
}

export function encodeProfile(profile: Profile): Buffer {
  return zstdCompressSync(JSON.stringify(profile));
}

/** Throws `corrupt`, or `unsupported` for another version. */
export function parseProfile(bytes: Buffer): Profile {
  let json: unknown;
  try {
    json = JSON.parse(zstdDecompressSync(bytes, { maxOutputLength: RAW_BYTES_MAX }).toString("utf8"));
  } catch (cause) {
    throw new PlatformError("corrupt", "a start profile cannot be read", {
      cause,
      remedy: "Delete it; the next start writes a new one.",
    });
  }
  const version = (json as { formatVersion?: unknown } | null)?.formatVersion;
  if (version !== PROFILE_VERSION)
    throw new PlatformError(
      "unsupported",
      `a start profile has version ${String(version)}; this reader knows ${PROFILE_VERSION}`,
    );
  const parsed = profileSchema.safeParse(json);
  if (!parsed.success)
    throw new PlatformError("corrupt", `not a valid start profile: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

function dataChunks(index: ImageIndex) {
  return index.blobs.find(({ kind }) => kind === BLOB_KINDS.erofsData)?.chunks ?? [];
}

/** Which page of which chunk a byte of the data blob lies in. */
function chunkLocator(index: ImageIndex): (offset: number) => { chunk: string; page: number } | undefined {
  const chunks = dataChunks(index);
  const starts: number[] = [];
  let end = 0;
  for (const { rawLength } of chunks) {
    starts.push(end);
    end += rawLength;
  }
  return (offset) => {
    if (offset >= end) return undefined;
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((starts[middle] as number) <= offset) low = middle;
      else high = middle - 1;
    }
    const chunk = chunks[low];
    return chunk === undefined
      ? undefined
      : { chunk: chunk.sha256.toString("hex"), page: (offset - (starts[low] as number)) / BLOCK_BYTES };
  };
}

function pagesOf(notes: Map<string, Map<number, PageNote>>, chunk: string): Map<number, PageNote> {
  let pages = notes.get(chunk);
  if (pages === undefined) {
    pages = new Map();
    notes.set(chunk, pages);
  }
  return pages;
}

/** Neighbouring pages of equal score and rank as one run. */
function runsOf(pages: Map<number, PageNote>): Array<[number, number, number, number]> {
  const runs: Array<[number, number, number, number]> = [];
  for (const [page, { score, rank }] of [...pages].sort(([a], [b]) => a - b)) {
    if (score < SCORE_MIN) continue;
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === page && last[2] === score && last[3] === rank) last[1]++;
    else runs.push([page, 1, score, rank]);
  }
  return runs;
}
