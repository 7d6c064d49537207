// `npm run bench -- NAME [--json] [--smoke]`: finds the benchmark's folder and runs it.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Figures, report } from "./src/report.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: "boolean", default: false },
    smoke: { type: "boolean", default: false },
    part: { type: "string", multiple: true },
    rounds: { type: "string" },
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
  --part   only this part of a benchmark that has parts (weights: links, unlimited, 10g, 70b, many, relay; scaleup: 7b, 70b, 70b-full)
  --rounds how often the sides of a comparison take turns, where a benchmark has such rounds

What is claimed stands in bench/RESULTS.md.
`);
  process.exit(values.help ? 0 : 2);
}
const { run } = (await import(`./${name}/bench.ts`)) as {
  run: (options: { smoke: boolean; parts?: string[]; rounds?: number }) => Promise<Figures>;
};
const { smoke, part: parts, rounds } = values;
const options = {
  smoke,
  ...(parts === undefined ? {} : { parts }),
  ...(rounds === undefined ? {} : { rounds: Number(rounds) }),
};
report(await run(options), values.json);
process.exit(0);
