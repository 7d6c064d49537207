// Builds the addon of @pilotlight/engine, or takes it from the cache: node native/engine/build.mjs

import { fileURLToPath } from "node:url";
import { BuildError, buildNative } from "../build.mjs";

/** The addon's path. `features` builds a variant into the cache only (tests use `fault-injection`). */
export const buildEngine = ({ features = [], log } = {}) =>
  buildNative({
    crate: "engine",
    directory: fileURLToPath(new URL(".", import.meta.url)).replace(/\/$/, ""),
    artifact: "engine.node",
    features,
    log,
  });

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const { path, built, seconds } = await buildEngine({ log: (line) => process.stderr.write(`${line}\n`) });
    process.stdout.write(`${path} (${built ? `built in ${seconds} s` : "from the cache"})\n`);
  } catch (error) {
    process.stderr.write(`${error instanceof BuildError ? error.message : error.stack}\n`);
    process.exitCode = 1;
  }
}
