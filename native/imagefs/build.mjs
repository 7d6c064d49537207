// Builds the imagefs program. `node native/imagefs/build.mjs` by hand, or from the set-up.
import { buildNative } from "../build.mjs";

/** @param {{ log?: (line: string) => void }} [options] */
export function buildImagefs(options = {}) {
  return buildNative({
    crate: "imagefs",
    directory: import.meta.dirname,
    artifact: "pilotlight-imagefs",
    ...options,
  });
}

if (process.argv[1] === import.meta.filename) {
  const { path, built, seconds } = await buildImagefs({ log: (line) => process.stderr.write(`${line}\n`) });
  process.stdout.write(`${path} (${built ? `built in ${seconds} s` : "cached"})\n`);
}
