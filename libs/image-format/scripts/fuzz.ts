// `npm run fuzz -- [--minutes N]`: the properties of readers and merger, with new random inputs until the time is over. A
// failure prints the seed and the smallest input that fails, and ends the run.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({ options: { minutes: { type: "string", default: "60" } } });
const minutes = Number(values.minutes);
if (!(minutes > 0)) {
  process.stderr.write("--minutes needs a number above 0\n");
  process.exit(2);
}

const root = join(import.meta.dirname, "../../..");
const FILES = ["image-file", "tar/reader", "merge", "profile", "erofs/erofs", "chunker"];
const tests = FILES.map((name) => `libs/image-format/src/${name}.test.ts`);
/** A round takes some minutes: long enough that its start does not matter. */
const FACTOR = "50";
const until = performance.now() + minutes * 60_000;
for (let round = 1; performance.now() < until; round++) {
  process.stdout.write(`round ${round}, ${Math.ceil((until - performance.now()) / 60_000)} minutes left\n`);
  const { status } = spawnSync("npx", ["vitest", "run", "--testTimeout=0", ...tests], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, PILOTLIGHT_FUZZ_FACTOR: FACTOR },
  });
  if (status !== 0) process.exit(status ?? 1);
}
