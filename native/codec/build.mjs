// Builds the addon of @pilotlight/codec, or takes it from the cache: node native/codec/build.mjs
import { buildNative } from "../build.mjs";

/** @param {{ log?: (line: string) => void }} [options] */
export function buildCodec(options = {}) {
  return buildNative({ crate: "codec", directory: import.meta.dirname, artifact: "codec.node", ...options });
}

if (process.argv[1] === import.meta.filename) {
  const { path, built, seconds } = await buildCodec({ log: (line) => process.stderr.write(`${line}\n`) });
  process.stdout.write(`${path} (${built ? `built in ${seconds} s` : "from the cache"})\n`);
}
