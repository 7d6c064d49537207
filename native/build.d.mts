/** A build that cannot start or did not end well; `remedy` says what to do about it. */
export class BuildError extends Error {
  readonly remedy: string;
  constructor(message: string, remedy: string);
}

export type BuildOptions = {
  /** Name of the folder under native/. */
  crate: string;
  /** The crate's absolute path. */
  directory: string;
  /** `*.node` for the crate's cdylib, else the name of its binary. */
  artifact: string;
  /** Cargo features; such a variant is put into the cache only. */
  features?: string[];
  log?: (line: string) => void;
};

export type BuildResult = { path: string; built: boolean; seconds: number };

/** Builds a crate once per state of its sources; see build.mjs. */
export function buildNative(options: BuildOptions): Promise<BuildResult>;
