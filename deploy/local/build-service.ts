// Bundles the program of the package in whose folder it runs, src/main.ts or the one that is named, into dist/: one file
// starts in a third of the time and half of the memory of the same sources. Native parts are linked beside it, where the
// bundled code looks for them.
import { copyFileSync, existsSync, linkSync, readdirSync, rmSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { build } from "esbuild";

const service = process.cwd();
const program = process.argv[2] ?? "main";
const root = join(import.meta.dirname, "../..");

const result = await build({
  entryPoints: [join(service, `src/${program}.ts`)],
  outfile: join(service, `dist/${program}.js`),
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
  sourcemap: "linked",
  minifySyntax: true,
  minifyWhitespace: true,
  metafile: true,
  logLevel: "warning",
  // Packages with binaries of their own stay packages.
  external: ["@duckdb/*"],
  banner: {
    js: "import{createRequire as $createRequire}from'node:module';const require=$createRequire(import.meta.url);",
  },
});

const natives = new Set(
  Object.keys(result.metafile.inputs)
    .map((input) => /(?:^|\/)native\/([^/]+)\//.exec(relative(root, join(service, input)))?.[1])
    .filter((name) => name !== undefined),
);
for (const name of natives) {
  for (const artifact of readdirSync(join(root, "native", name)).filter(
    (file) => file.endsWith(".node") || file.startsWith("pilotlight-"),
  )) {
    const target = join(service, artifact);
    rmSync(target, { force: true });
    try {
      linkSync(join(root, "native", name, artifact), target);
    } catch {
      copyFileSync(join(root, "native", name, artifact), target); // another file system
    }
  }
}
if (!existsSync(join(service, `dist/${program}.js`))) throw new Error(`${basename(service)} has no bundle`);
