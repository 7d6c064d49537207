// Builds the addon of @pilotlight/streamer, or takes it from the cache: node native/streamer/build.mjs

import { fileURLToPath } from "node:url";
import { BuildError, buildNative } from "../build.mjs";

/** The addon's path. */
export const buildStreamer = ({ features = [], log } = {}) =>
  buildNative({
    crate: "streamer",
    directory: fileURLToPath(new URL(".", import.meta.url)).replace(/\/$/, ""),
    artifact: "streamer.node",
    features,
    log,
  });

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const { path, built, seconds } = await buildStreamer({
      log: (line) => process.stderr.write(`${line}\n`),
    });
    process.stdout.write(`${path} (${built ? `built in ${seconds} s` : "from the cache"})\n`);
  } catch (error) {
    process.stderr.write(`${error instanceof BuildError ? error.message : error.stack}\n`);
    process.exitCode = 1;
  }
}
