// Writes everything that is generated from proto/ and the catalogue: src/gen and docs/reference/asyncapi.json.
// `npm run generate` runs it; `generated.test.ts` fails when its output is not what is committed.
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../..");
const binaries = join(root, "node_modules/.bin");

execFileSync(join(binaries, "buf"), ["generate"], {
  cwd: here,
  stdio: "inherit",
  env: { ...process.env, PATH: `${binaries}:${process.env.PATH}` },
});

// After the code: the document is made from the generated descriptors.
const { asyncApiDocument } = await import("./src/asyncapi.ts");
mkdirSync(join(root, "docs/reference"), { recursive: true });
writeFileSync(join(root, "docs/reference/asyncapi.json"), `${JSON.stringify(asyncApiDocument(), null, 2)}\n`);
