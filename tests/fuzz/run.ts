// `npm run fuzz -- [--minutes N] [--only images|mounts|headers]`: what reads files of strangers, with new random input until the
// time is over: the properties of the image readers, of those of the mounting side (Rust), and safetensors headers beside the
// reference library, in turns. A failure prints the seed and the input, and ends the run.
import { spawnSync } from "node:child_process";
import { randomInt } from "node:crypto";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cacheDir } from "@pilotlight/servers";
import { fuzzHeaders } from "./headers.ts";

const root = join(import.meta.dirname, "../..");
const IMAGE_READERS = [
  "image-file",
  "tar/reader",
  "tar/sparse",
  "merge",
  "profile",
  "erofs/erofs",
  "chunker",
];
/** A round takes some minutes: long enough that its start does not matter. */
const IMAGE_FACTOR = "50";
/** The readers in Rust take microseconds an input. */
const MOUNTS_FACTOR = "300";
const HEADERS_ROUND_MS = 120_000;

type Turn = (until: number) => Promise<void>;

const turns: Record<string, Turn> = {
  async images() {
    const tests = IMAGE_READERS.map((name) => `libs/image-format/src/${name}.test.ts`);
    const { status } = spawnSync("npx", ["vitest", "run", "--testTimeout=0", ...tests], {
      cwd: root,
      stdio: "inherit",
      env: { ...process.env, PILOTLIGHT_FUZZ_FACTOR: IMAGE_FACTOR },
    });
    if (status !== 0) process.exit(status ?? 1);
  },
  async mounts() {
    const { status, error } = spawnSync("cargo", ["test", "--release", "--quiet", "--locked", "damaged"], {
      cwd: join(root, "native/imagefs"),
      stdio: "inherit",
      env: {
        ...process.env,
        CARGO_TARGET_DIR: cacheDir("cargo-target", "imagefs"),
        PILOTLIGHT_FUZZ_FACTOR: MOUNTS_FACTOR,
        PILOTLIGHT_FUZZ_SEED: String(randomInt(2 ** 47)),
      },
    });
    if (error !== undefined) say(`cargo cannot be run: ${error.message}`);
    if (status !== 0) process.exit(status ?? 1);
  },
  async headers(until) {
    const seed = randomInt(2 ** 31);
    const end = Math.min(until, performance.now() + HEADERS_ROUND_MS);
    const { cases, accepted, stricter } = await fuzzHeaders(seed, () => performance.now() >= end);
    say(`headers, seed ${seed}: ${cases} files, ${accepted} accepted alike, ${stricter} refused only here`);
  },
};

const say = (text: string): boolean => process.stdout.write(`${text}\n`);

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "60" }, only: { type: "string" } },
});
const minutes = Number(values.minutes);
const chosen = values.only === undefined ? Object.keys(turns) : [values.only];
if (!(minutes > 0) || chosen.some((name) => turns[name] === undefined)) {
  process.stderr.write(`--minutes needs a number above 0, --only one of ${Object.keys(turns).join(", ")}\n`);
  process.exit(2);
}
const until = performance.now() + minutes * 60_000;
for (let round = 1; performance.now() < until; round++) {
  for (const name of chosen) {
    say(`round ${round}, ${name}, ${Math.ceil((until - performance.now()) / 60_000)} minutes left`);
    await turns[name]?.(until);
  }
}
process.exit(0);
