// The token that callers must present. An API that anybody on the network could use without one is refused.
import { readFile } from "node:fs/promises";
import { PlatformError } from "@pilotlight/errors";
import type { Config } from "../config.ts";

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1|localhost)$/;

/** Reads the configured token; null when none is asked for. Throws `invalidArgument` beyond loopback without one. */
export async function readToken(
  config: Pick<Config, "allowOpenAccess" | "apiTokenFile" | "httpHost">,
): Promise<string | null> {
  if (config.apiTokenFile !== "") {
    const token = (await readFile(config.apiTokenFile, "utf8")).trim();
    if (token !== "") return token;
    throw new PlatformError("invalidArgument", `${config.apiTokenFile} is empty`, {
      field: "apiTokenFile",
      remedy: "Write a long random token into it.",
    });
  }
  if (config.allowOpenAccess || LOOPBACK.test(config.httpHost)) return null;
  throw new PlatformError("invalidArgument", `the API would listen on ${config.httpHost} without a token`, {
    field: "apiTokenFile",
    remedy:
      "Set API_TOKEN_FILE to a file with a token, listen on 127.0.0.1, or set ALLOW_OPEN_ACCESS=true if something else keeps strangers out.",
  });
}
