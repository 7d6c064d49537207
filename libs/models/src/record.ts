// `pilotlight.json`: what a model repository in the bucket is, where it came from and what every file's bytes must be.
// It is written last, so a repository that has it is complete. The checksums of blocks let a reader check what it got
// of a file before it has all of it; the SHA-256 is the file's identity.
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

export const RECORD_FILE = "pilotlight.json";
export const RECORD_BYTES_MAX = 32 * 1024 * 1024;
/** Bytes that one checksum covers; the last block of a file may be shorter. */
export const BLOCK_BYTES = 4 * 1024 * 1024;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const fileSchema = z.strictObject({
  bytes: z.int().nonnegative(),
  sha256,
  /** CRC-32 (the one of zlib) of each block, 8 hex digits each, concatenated. */
  crc32: z.strictObject({ blockBytes: z.int().positive(), blocks: z.string().regex(/^([0-9a-f]{8})*$/) }),
});

const recordSchema = z.object({
  format: z.literal("pilotlight-model-1"),
  name: z.string().min(1),
  /** How the files were made from the source; a changed recipe makes the repository anew. */
  recipe: z.string().min(1),
  source: z.strictObject({
    uri: z.string(),
    /** Version, commit or digest: what `uri` meant when it was read. */
    revision: z.string(),
    /** Of the one file that everything was made from; absent for a repository. */
    sha256: sha256.optional(),
    /** Of the weight files that a transformed repository was made from, by name. */
    files: z.record(z.string(), sha256).optional(),
  }),
  licence: z.string().describe("SPDX identifier, or `unknown`"),
  /** Beside the licence's name: files in the repository that hold terms, and where the card says that they stand. */
  terms: z.strictObject({ files: z.array(z.string()), link: z.string().nullable() }).optional(),
  notice: z.string(),
  /** What wrote it, with its version. */
  tool: z.string().optional(),
  quantisation: z
    .strictObject({ scheme: z.string(), groupSize: z.int().nullable(), format: z.string() })
    .optional(),
  /** So many folders, `rank-0-of-2` and on, hold the slices of a tensor-parallel group each. */
  ranks: z.int().positive().optional(),
  /** In short what the quality record says. */
  quality: z
    .strictObject({
      file: z.string(),
      relativeRms: z.number(),
      /** Of a fixed text before and after; null where no engine here runs the model. */
      perplexity: z.strictObject({ before: z.number(), after: z.number() }).nullable(),
    })
    .optional(),
  addedAt: z.iso.datetime(),
  files: z.record(z.string(), fileSchema),
});

/** Where a rank's own repository lies in one that is cut for ranks. */
export const rankFolder = (rank: number, ranks: number): string => `rank-${rank}-of-${ranks}`;

export type ModelRecord = z.infer<typeof recordSchema>;
export type FileDigest = ModelRecord["files"][string];

/** Reads a record. Throws `corrupt` with the field that is wrong. */
export function parseModelRecord(text: string): ModelRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new PlatformError("corrupt", `${RECORD_FILE} is not JSON`, { cause });
  }
  const parsed = recordSchema.safeParse(value);
  if (!parsed.success) {
    throw new PlatformError("corrupt", `${RECORD_FILE}: ${z.prettifyError(parsed.error)}`, {
      remedy: "Add the model again with `pilotlight model add`.",
    });
  }
  for (const [name, { bytes, crc32 }] of Object.entries(parsed.data.files)) {
    if (crc32.blocks.length !== 8 * Math.ceil(bytes / crc32.blockBytes)) {
      throw new PlatformError(
        "corrupt",
        `${RECORD_FILE}: ${name} has ${bytes} bytes but not that many checksums`,
      );
    }
  }
  return parsed.data;
}

/** Computes a file's entry from its bytes as they pass. */
export class Digester {
  readonly #sha256 = createHash("sha256");
  #blocks = "";
  #crc = 0;
  #inBlock = 0;
  #bytes = 0;

  update(chunk: Uint8Array): void {
    this.#sha256.update(chunk);
    this.#bytes += chunk.byteLength;
    for (let used = 0; used < chunk.byteLength; ) {
      const take = Math.min(chunk.byteLength - used, BLOCK_BYTES - this.#inBlock);
      this.#crc = crc32(chunk.subarray(used, used + take), this.#crc);
      this.#inBlock += take;
      used += take;
      if (this.#inBlock === BLOCK_BYTES) this.#endBlock();
    }
  }

  finish(): FileDigest {
    if (this.#inBlock > 0) this.#endBlock();
    return {
      bytes: this.#bytes,
      sha256: this.#sha256.digest("hex"),
      crc32: { blockBytes: BLOCK_BYTES, blocks: this.#blocks },
    };
  }

  #endBlock(): void {
    this.#blocks += this.#crc.toString(16).padStart(8, "0");
    this.#crc = 0;
    this.#inBlock = 0;
  }
}
