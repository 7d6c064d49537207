// `npm run bench -- NAME [--json] [--smoke]`: finds the benchmark's folder and runs it.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { enterOwnNetwork } from "./src/own-network.ts";
import { type Figures, type RunOptions, report } from "./src/report.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: "boolean", default: false },
    smoke: { type: "boolean", default: false },
    part: { type: "string", multiple: true },
    rounds: { type: "string" },
    image: { type: "string", multiple: true },
    profile: { type: "string", multiple: true },
    peer: { type: "string", multiple: true },
    help: { type: "boolean", short: "h", default: false },
  },
});
const names = readdirSync(import.meta.dirname).filter((name) =>
  existsSync(join(import.meta.dirname, name, "bench.ts")),
);
const [name] = positionals;
if (values.help || name === undefined || !names.includes(name)) {
  process.stdout.write(`npm run bench -- NAME [--json] [--smoke] [--part PART…] [--rounds N]

  NAME     one of ${names.join(", ")}
  --json   the last line is one JSON object with every figure
  --smoke  the smallest run that goes through everything; its figures mean nothing
  --part   only this part of a benchmark that has parts (weights: links, unlimited, 10g, 70b, many, relay; scaleup: 7b, 70b,
           70b-full; image: convert, versions, mounts, mass, reads, starts)
  --rounds how often the sides of a comparison take turns, where a benchmark has such rounds
  --image, --profile, --peer   image: only these images (torch-6gb, vllm-13gb), nodes (eks, 1g, 8g) and other sides of the starts
           (containerd-overlayfs, containerd-erofs, stargz, none)

What is claimed stands in bench/RESULTS.md.
`);
  process.exit(values.help ? 0 : 2);
}
const { prepare, run } = (await import(`./${name}/bench.ts`)) as {
  /** Fetches and builds all that `run` needs: it then runs in a network of its own. */
  prepare?: (options: RunOptions) => Promise<void>;
  run: (options: RunOptions) => Promise<Figures>;
};
const { smoke, part: parts, rounds, image: images, profile: profiles, peer: peers } = values;
const options: RunOptions = {
  smoke,
  ...(parts && { parts }),
  ...(rounds !== undefined && { rounds: Number(rounds) }),
  ...(images && { images }),
  ...(profiles && { profiles }),
  ...(peers && { peers }),
};
if (prepare !== undefined) {
  await prepare(options);
  await enterOwnNetwork();
}
report(await run(options), values.json);
process.exit(0);
