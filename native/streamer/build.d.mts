import type { BuildResult } from "../build.mjs";

/** Builds the addon, or takes it from the cache. */
export function buildStreamer(options?: {
  features?: string[];
  log?: (line: string) => void;
}): Promise<BuildResult>;
