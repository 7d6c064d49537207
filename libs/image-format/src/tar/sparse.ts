// Sparse files: which runs of a file have data, in the four ways that archives say it, and the steps that give the file
// back. All stored data of an entry stand one after the other, without padding between the runs, as containerd reads them.
// Formats: https://www.gnu.org/software/tar/manual/html_node/Sparse-Formats.html and Standard.html (old GNU).
//   S1. Steps cover the file from its start to its size, without gap or overlap, and use all stored bytes.
//   S2. A map is bounded in bytes (SPARSE_MAP_BYTES_MAX), and no work depends on the size that a file claims.
import { PlatformError } from "@pilotlight/errors";
import { decimal, malformed } from "./decimal.ts";
import { headerNumber, TAR_BLOCK_BYTES } from "./header.ts";

/** The largest map that is read, about 40,000 runs: what Go's reader (containerd) accepts too. */
export const SPARSE_MAP_BYTES_MAX = 1 << 20;

/** Bytes of a file that are stored; the others are zeros. */
export type SparseRun = { offset: number; length: number };

/** What to do next to give the file back: so many zeros, then so many stored bytes. */
export type SparseStep = { hole: number; data: number };

/** The GNU.sparse.* records of a pax header, not yet checked against each other. */
export type SparseRecords = {
  major?: string;
  minor?: string;
  name?: string;
  size?: number;
  runCount?: number;
  /** Offsets and lengths by turns: of version 0.0 (records that repeat) or 0.1 (one record with commas). */
  numbers: number[];
};

const RECORD_PREFIX = "GNU.sparse.";
/** Places of the map in an old GNU header, and of "an extension block follows" there and in such a block. */
const OLD_HEADER = { map: 386, runs: 4, extended: 482, size: 483 };
const OLD_EXTENSION = { map: 0, runs: 21, extended: 504 };

/** Takes a pax record when it is one about sparse files; the result replaces `records`. Throws `corrupt`. */
export function applySparseRecord(
  records: SparseRecords | undefined,
  key: string,
  text: string,
): SparseRecords | undefined {
  if (!key.startsWith(RECORD_PREFIX)) return records;
  const next = records ?? { numbers: [] };
  const { numbers } = next;
  switch (key.slice(RECORD_PREFIX.length)) {
    case "major":
      return { ...next, major: text };
    case "minor":
      return { ...next, minor: text };
    case "name":
      return { ...next, name: text };
    case "size":
    case "realsize":
      return { ...next, size: decimal(text, key) };
    case "numblocks":
      return { ...next, runCount: decimal(text, key) };
    case "offset":
    case "numbytes":
      if ((numbers.length % 2 === 0) !== key.endsWith("offset")) throw malformed("order of sparse runs");
      numbers.push(decimal(text, key));
      return next;
    case "map":
      if (numbers.length > 0) throw malformed("second sparse map");
      return { ...next, numbers: text === "" ? [] : text.split(",").map((part) => decimal(part, key)) };
    default:
      throw malformed(`record ${JSON.stringify(key)}`);
  }
}

/** What a pax header says about a sparse file. `inData` (1.0): the map stands before the data, see SparseMapReader. */
export function readSparseRecords(
  records: SparseRecords,
): { size: number } & ({ map: "inData" } | { map: "runs"; runs: SparseRun[] }) {
  const { major, minor, size, numbers, runCount } = records;
  if (size === undefined) throw malformed("sparse file: it has no size");
  const version = `${major ?? "0"}.${minor ?? "0"}`;
  if (version === "1.0") return { size, map: "inData" };
  if (version !== "0.0" && version !== "0.1") {
    throw new PlatformError(
      "unsupported",
      `the layer holds a sparse file of version ${version.slice(0, 20)}`,
      {
        remedy:
          "Build the image with a tool that writes sparse files in version 0.0, 0.1 or 1.0, or plainly.",
      },
    );
  }
  // Without any run, readers disagree about what the entry is; tools write at least an empty one at the file's end.
  if (numbers.length === 0 || numbers.length !== 2 * (runCount ?? -1))
    throw malformed("count of sparse runs");
  return { size, map: "runs", runs: runsOf(numbers) };
}

/** The map in the header of an entry of type "S". `extended`: blocks with more of it follow. Throws as the reader does. */
export function readOldGnuSparse(header: Buffer): { size: number; runs: SparseRun[]; extended: boolean } {
  // The other writer of this type, star, has another layout.
  if (header.toString("latin1", 257, 265) !== "ustar  \0") {
    throw new PlatformError("unsupported", "the layer holds a sparse file in another format than GNU tar's", {
      remedy:
        "Build the image with a tool that writes plain tar entries (docker, buildkit, buildah, kaniko do).",
    });
  }
  return {
    size: headerNumber(header, OLD_HEADER.size, 12, "sparse file's size"),
    runs: oldGnuRuns(header, OLD_HEADER),
    extended: header[OLD_HEADER.extended] !== 0,
  };
}

/** One extension block of such a map. */
export function readOldGnuExtension(block: Buffer): { runs: SparseRun[]; extended: boolean } {
  return { runs: oldGnuRuns(block, OLD_EXTENSION), extended: block[OLD_EXTENSION.extended] !== 0 };
}

function oldGnuRuns(block: Buffer, { map, runs: count }: { map: number; runs: number }): SparseRun[] {
  const runs: SparseRun[] = [];
  for (let at = map; at < map + count * 24 && block[at] !== 0; at += 24) {
    const offset = headerNumber(block, at, 12, "sparse run");
    const length = headerNumber(block, at + 12, 12, "sparse run");
    runs.push({ offset, length });
  }
  return runs;
}

/** The map of version 1.0: lines with a count, then with offset and length by turns, padded to whole blocks. */
export class SparseMapReader {
  readonly #numbers: number[] = [];
  #rest = "";
  /** Bytes of the entry's data that the map took. */
  mapBytes = 0;

  /** Takes the next block; returns the runs when it was the map's last. Throws `corrupt`. */
  push(block: Buffer): SparseRun[] | undefined {
    this.mapBytes += TAR_BLOCK_BYTES;
    if (this.mapBytes > SPARSE_MAP_BYTES_MAX) throw mapTooLong();
    const lines = (this.#rest + block.toString("latin1")).split("\n");
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      this.#numbers.push(decimal(line, "sparse map"));
      // What follows the last number in its block is padding.
      if (this.#numbers.length === 1 + 2 * (this.#numbers[0] as number))
        return runsOf(this.#numbers.slice(1));
    }
    // A line is never longer than a number: no block is searched twice.
    if (this.#rest.length > 16) throw malformed("sparse map");
    return undefined;
  }
}

/** The refusal of a map above SPARSE_MAP_BYTES_MAX. */
export function mapTooLong(): PlatformError {
  return new PlatformError(
    "corrupt",
    `the map of a sparse file is longer than ${SPARSE_MAP_BYTES_MAX} bytes`,
    {
      remedy:
        "Build the image with a tool that writes plain tar entries (docker, buildkit, buildah, kaniko do).",
    },
  );
}

/** The steps that give a file of `size` bytes back from `stored` bytes. Throws `corrupt` when the map does not fit them. */
export function planSparse(runs: readonly SparseRun[], size: number, stored: number): SparseStep[] {
  const steps: SparseStep[] = [];
  let end = 0;
  let data = 0;
  for (const { offset, length } of runs) {
    if (offset < end || length < 0 || length > size - offset)
      throw doesNotFit("runs that overlap, are out of order or reach beyond the file");
    steps.push({ hole: offset - end, data: length });
    end = offset + length;
    data += length;
  }
  if (data !== stored) throw doesNotFit(`runs of ${data} bytes, and ${stored} are stored`);
  if (end < size) steps.push({ hole: size - end, data: 0 });
  return steps;
}

function runsOf(numbers: readonly number[]): SparseRun[] {
  return Array.from({ length: numbers.length / 2 }, (_, i) => ({
    offset: numbers[2 * i] as number,
    length: numbers[2 * i + 1] as number,
  }));
}

function doesNotFit(what: string): PlatformError {
  return new PlatformError("corrupt", `the map of a sparse file has ${what}`, {
    remedy: "The layer is damaged or was written by a broken tool; push the image again.",
  });
}
