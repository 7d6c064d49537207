// Who may call, and in whose name: bearer tokens by the name of whoever holds them. An API that anybody on the network could use
// without one is refused.
import { createHash, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";
import { PlatformError } from "@pilotlight/errors";
import type { Config } from "../config.ts";

export type Caller = {
  name: string;
  /** False where no token is asked for: then anybody who reaches the API is `local`. */
  authenticated: boolean;
};

/** Digest of a token → whose it is. */
export type Callers = ReadonlyMap<string, string>;

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/;
const LINE = /^(?:([A-Za-z0-9][A-Za-z0-9._@-]{0,127})[ \t]+)?(\S+)$/;
/** Whose a token is that stands alone on its line. */
const UNNAMED = "token";
const LOCAL: Caller = { name: "local", authenticated: false };

const digestOf = (token: string): string => createHash("sha256").update(token).digest("hex");

/** Reads the configured tokens; null when none is asked for. Throws `invalidArgument` beyond loopback without one. */
export async function readCallers(
  config: Pick<Config, "allowOpenAccess" | "apiTokenFile" | "httpHost">,
): Promise<Callers | null> {
  if (config.apiTokenFile !== "") {
    return parseCallers(await readFile(config.apiTokenFile, "utf8"), config.apiTokenFile);
  }
  if (config.allowOpenAccess || LOOPBACK.test(config.httpHost)) return null;
  throw new PlatformError("invalidArgument", `the API would listen on ${config.httpHost} without a token`, {
    field: "apiTokenFile",
    remedy:
      "Set API_TOKEN_FILE to a file with a token, listen on 127.0.0.1, or set ALLOW_OPEN_ACCESS=true if something else keeps strangers out.",
  });
}

function parseCallers(text: string, file: string): Callers {
  const callers = new Map<string, string>();
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, name = UNNAMED, token] = LINE.exec(line.trim()) ?? [];
    if (token === undefined || callers.has(digestOf(token))) {
      throw new PlatformError(
        "invalidArgument",
        `${file}, line ${index + 1}: no token, or one that stands there twice`,
        {
          field: "apiTokenFile",
          remedy: "Write a token a line, with its holder's name before it: alice LONG-RANDOM-TOKEN.",
        },
      );
    }
    callers.set(digestOf(token), name);
  }
  if (callers.size > 0) return callers;
  throw new PlatformError("invalidArgument", `${file} is empty`, {
    field: "apiTokenFile",
    remedy: "Write a long random token into it.",
  });
}

/** Who presents this `Authorization` header. Throws `unauthenticated`. */
export function callerOf(callers: Callers | null, header: string | undefined): Caller {
  if (callers === null) return LOCAL;
  const presented = Buffer.from(digestOf(/^Bearer (\S+)$/.exec(header ?? "")?.[1] ?? ""));
  let name: string | undefined;
  for (const [digest, holder] of callers) if (timingSafeEqual(Buffer.from(digest), presented)) name = holder;
  if (name !== undefined) return { name, authenticated: true };
  throw new PlatformError("unauthenticated", "a bearer token is needed", {
    remedy: "Send 'Authorization: Bearer …'; the command line reads it from PILOTLIGHT_TOKEN.",
  });
}
