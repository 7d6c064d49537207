// API keys, by hash: the file holds `name sha256-hex` a line (`#` begins a comment), so that whoever reads it cannot use it.
// A changed file counts at once; a file that became unreadable leaves the last keys in force.
import { hash } from "node:crypto";
import { type FSWatcher, readFileSync, watch } from "node:fs";
import { isIP } from "node:net";
import { basename, dirname } from "node:path";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";

const LINE = /^(?<name>[A-Za-z0-9_.@-]{1,128})\s+(?<digest>[0-9a-f]{64})$/;

/** A file that was just changed is read when it has been quiet for this long. */
const SETTLE_MS = 50;

/** Who may ask. */
export class ApiKeys {
  #names: ReadonlyMap<string, string>;
  readonly #watcher: FSWatcher;
  #timer: NodeJS.Timeout | null = null;

  /** Throws `invalidArgument` naming the line that is wrong. */
  constructor(path: string) {
    this.#names = parseApiKeys(readFileSync(path, "utf8"), path);
    // The folder, not the file: editors and mounted secrets replace the file.
    this.#watcher = watch(dirname(path), { persistent: false }, (_, file) => {
      if (file !== null && file !== basename(path) && file !== "..data") return;
      if (this.#timer !== null) clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#reload(path), SETTLE_MS).unref();
    });
  }

  /** The name of the key in an `authorization` header. Throws `unauthenticated`. */
  nameOf(authorization: string | undefined): string {
    const key = /^Bearer\s+(\S+)$/i.exec(authorization ?? "")?.[1];
    // Found by its hash: how long the look-up takes says nothing about the keys.
    const name = key === undefined ? undefined : this.#names.get(hash("sha256", key));
    if (name !== undefined) return name;
    throw new PlatformError(
      "unauthenticated",
      key === undefined ? "no API key was sent" : "the API key is not known",
      {
        remedy: "Send 'Authorization: Bearer KEY' with a key of this platform.",
      },
    );
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#watcher.close();
  }

  #reload(path: string): void {
    try {
      this.#names = parseApiKeys(readFileSync(path, "utf8"), path);
      logger("keys").info("API keys read", { keys: this.#names.size });
    } catch (error) {
      logger("keys").error("API keys cannot be read; the last ones stay in force", {
        error: toPlatformError(error),
      });
    }
  }
}

/** Digest → name. Throws `invalidArgument` naming the line that is wrong. */
export function parseApiKeys(text: string, path: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.replace(/#.*/, "").trim();
    if (line === "") continue;
    const match = LINE.exec(line)?.groups;
    if (match?.digest === undefined || match.name === undefined) {
      throw new PlatformError("invalidArgument", `${path}:${index + 1} is not 'name sha256-hex'`, {
        field: "apiKeysFile",
        remedy: 'Make a line with: echo "NAME $(printf %s "$KEY" | sha256sum | cut -d\' \' -f1)"',
      });
    }
    names.set(match.digest, match.name);
  }
  if (names.size > 0) return names;
  // Also what a file looks like for a moment while it is written: that must not lock everybody out.
  throw new PlatformError("invalidArgument", `${path} holds no keys`, { field: "apiKeysFile" });
}

/** Refuses a door that is open to other machines without keys, unless that was allowed expressly. */
export function checkExposure(host: string, hasKeys: boolean, allowOpenAccess: boolean): void {
  if (hasKeys || allowOpenAccess || isLoopback(host)) return;
  throw new PlatformError(
    "invalidArgument",
    `${host} is reachable from other machines, and no API keys are set`,
    {
      field: "httpHost",
      remedy: "Set API_KEYS_FILE, or ALLOW_OPEN_ACCESS=true if something in front asks for keys.",
    },
  );
}

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
