// Reads a file and prints how many ms it took. Arguments: `sequential` (all, 1 MiB at a time) or `random` (4 KiB at places that
// are the same in every run), path.
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const [pattern, path = ""] = process.argv.slice(2);
const SEQUENTIAL_BYTES = 1 << 20;
const RANDOM_BYTES = 4096;
const RANDOM_READS = 4_000;

const file = openSync(path, "r");
const { size } = fstatSync(file);
const buffer = Buffer.alloc(SEQUENTIAL_BYTES);
const startedAt = performance.now();
if (pattern === "sequential") {
  while (readSync(file, buffer, 0, SEQUENTIAL_BYTES, null) > 0);
} else {
  const pages = Math.max(1, Math.floor(size / RANDOM_BYTES));
  let state = 1;
  for (let i = 0; i < RANDOM_READS; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    readSync(file, buffer, 0, RANDOM_BYTES, (state % pages) * RANDOM_BYTES);
  }
}
process.stdout.write(String(performance.now() - startedAt));
closeSync(file);
