// Where the platform is: an option, a variable of the environment, the file that `npm start` leaves in `.pilotlight` of the
// checkout (looked for upwards from here), or the usual ports.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import type { Terminal } from "./terminal.ts";

export type Endpoints = { controlUrl: string; gatewayUrl: string; bucketUri: string | null };

const ENDPOINTS_FILE = join(".pilotlight", "endpoints.json");
const USUAL: Endpoints = {
  controlUrl: "http://127.0.0.1:7401",
  gatewayUrl: "http://127.0.0.1:7400",
  bucketUri: null,
};

const fileSchema = z.object({
  controlUrl: z.string(),
  gatewayUrl: z.string(),
  bucketUri: z.string(),
});

/** Finds the platform. `url`: the option `--url`. */
export function findEndpoints(terminal: Pick<Terminal, "env" | "cwd">, url: string | undefined): Endpoints {
  const { env } = terminal;
  const base = readEndpointsFile(terminal.cwd) ?? USUAL;
  return {
    controlUrl: checkUrl(url ?? env.PILOTLIGHT_URL ?? base.controlUrl),
    gatewayUrl: checkUrl(env.PILOTLIGHT_GATEWAY_URL ?? base.gatewayUrl),
    bucketUri: env.BUCKET_URI ?? base.bucketUri,
  };
}

function readEndpointsFile(from: string): Endpoints | null {
  for (let folder = from; ; folder = dirname(folder)) {
    const path = join(folder, ENDPOINTS_FILE);
    let text: string | undefined;
    try {
      text = readFileSync(path, "utf8");
    } catch {
      if (dirname(folder) === folder) return null;
      continue;
    }
    const parsed = fileSchema.safeParse(parseJson(text));
    if (parsed.success) return parsed.data;
    throw new PlatformError("invalidArgument", `${path} does not say where the platform is`, {
      remedy: "Remove the file and start the platform again, or use --url.",
    });
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function checkUrl(text: string): string {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol)) return text.replace(/\/+$/, "");
  throw new PlatformError("invalidArgument", `'${text}' is no http address`, {
    remedy: "Write e.g. http://127.0.0.1:7401.",
  });
}

/** The bucket, or what to do to name one. */
export function bucketOf(endpoints: Endpoints, option: string | undefined): string {
  const uri = option ?? endpoints.bucketUri;
  if (uri !== null) return uri;
  throw new PlatformError("invalidArgument", "no bucket is known", {
    remedy:
      "Name it with --bucket or BUCKET_URI, or run the command in a checkout where the platform was started.",
  });
}
