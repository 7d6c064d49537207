// Where downloads and builds are kept: outside the checkout, shared by all checkouts of the user.
import { homedir } from "node:os";
import { join } from "node:path";

/** `$PILOTLIGHT_CACHE_DIR`, else `$XDG_CACHE_HOME/pilotlight`, else `~/.cache/pilotlight`. */
export function cacheDir(...parts: string[]): string {
  const root =
    process.env.PILOTLIGHT_CACHE_DIR ??
    join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "pilotlight");
  return join(root, ...parts);
}
