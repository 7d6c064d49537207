// Builds a program of this crate, or takes it from the cache.

import { fileURLToPath } from "node:url";
import { buildNative } from "../../native/build.mjs";

/** The program's path. */
export async function buildTool(artifact) {
  const directory = fileURLToPath(new URL(".", import.meta.url)).replace(/\/$/, "");
  return (await buildNative({ crate: "links", directory, artifact, features: ["programs"] })).path;
}
