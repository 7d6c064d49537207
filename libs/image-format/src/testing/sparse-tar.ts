// Sparse entries for tests, in each of the forms that exist: also with maps that no honest tool writes.
import { fixChecksum, type TestEntry, tar } from "./tar.ts";

export const SPARSE_FORMS = ["gnu", "0.0", "0.1", "1.0"] as const;
export type SparseForm = (typeof SPARSE_FORMS)[number];

export type TestSparse = {
  name: string;
  size: number;
  /** Offsets and lengths as the map states them. */
  runs: ReadonlyArray<readonly [offset: number, length: number]>;
  /** What is stored behind the map. */
  stored: Buffer;
};

/** One sparse entry, without the archive's end. */
export function sparseEntry(form: SparseForm, file: TestSparse): Buffer {
  if (form === "gnu") return oldGnu(file);
  const { name, size, runs, stored } = file;
  const common: Array<[string, string]> = [["GNU.sparse.name", name]];
  if (form === "0.0") {
    common.push(["GNU.sparse.size", `${size}`], ["GNU.sparse.numblocks", `${runs.length}`]);
    for (const [offset, length] of runs)
      common.push(["GNU.sparse.offset", `${offset}`], ["GNU.sparse.numbytes", `${length}`]);
  } else if (form === "0.1") {
    common.push(["GNU.sparse.size", `${size}`], ["GNU.sparse.numblocks", `${runs.length}`]);
    common.push(["GNU.sparse.map", runs.flat().join(",")]);
  } else {
    common.push(["GNU.sparse.major", "1"], ["GNU.sparse.minor", "0"], ["GNU.sparse.realsize", `${size}`]);
  }
  const content = form === "1.0" ? Buffer.concat([mapBlocks(runs), stored]) : stored;
  return withoutEnd(tar([{ name: "GNUSparseFile.0/placeholder", pax: common, content }]));
}

function oldGnu({ name, size, runs, stored }: TestSparse): Buffer {
  const entry: TestEntry = { name, type: "S", magic: "ustar  \0", content: stored };
  const archive = withoutEnd(tar([entry]));
  octal(archive, 483, size);
  writeRuns(archive, 386, runs.slice(0, 4));
  const extensions: Buffer[] = [];
  for (let at = 4; at < runs.length; at += 21) {
    const block = Buffer.alloc(512);
    writeRuns(block, 0, runs.slice(at, at + 21));
    block[504] = at + 21 < runs.length ? 1 : 0;
    extensions.push(block);
  }
  archive[482] = extensions.length > 0 ? 1 : 0;
  fixChecksum(archive);
  return Buffer.concat([archive.subarray(0, 512), ...extensions, archive.subarray(512)]);
}

function writeRuns(block: Buffer, at: number, runs: TestSparse["runs"]): void {
  for (const [i, [offset, length]] of runs.entries()) {
    octal(block, at + i * 24, offset);
    octal(block, at + i * 24 + 12, length);
  }
}

/** Twelve bytes: octal while it fits, base 256 above. */
function octal(block: Buffer, at: number, value: number): void {
  if (value < 8 ** 11) {
    block.write(`${value.toString(8).padStart(11, "0")}\0`, at, "latin1");
    return;
  }
  block[at] = 0x80;
  block.writeBigUInt64BE(BigInt(value), at + 4);
}

function mapBlocks(runs: TestSparse["runs"]): Buffer {
  const text = `${[runs.length, ...runs.flat()].join("\n")}\n`;
  return Buffer.concat([Buffer.from(text), Buffer.alloc((512 - (text.length % 512)) % 512)]);
}

const withoutEnd = (archive: Buffer): Buffer => archive.subarray(0, archive.length - 1024);
