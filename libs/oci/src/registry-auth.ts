// How a registry wants to be asked: nothing, Basic, or a bearer token from the realm that its challenge names.
// Source: https://distribution.github.io/distribution/spec/auth/token/ and RFC 7235.
import { readFile } from "node:fs/promises";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";

export type RegistryCredentials = { username: string; password: string };

/** Gives the credentials for a registry host, or undefined for anonymous access. */
export type CredentialProvider = (registry: string) => Promise<RegistryCredentials | undefined>;

const dockerConfigSchema = z.looseObject({
  auths: z
    .record(
      z.string(),
      z.looseObject({
        auth: z.string().optional(),
        username: z.string().optional(),
        password: z.string().optional(),
      }),
    )
    .optional(),
});

/** Credentials as `docker login` leaves them in its config file (`~/.docker/config.json`), read anew at each call. Credential helpers (external programs) are not run. */
export function dockerConfigCredentials(path: string): CredentialProvider {
  return async (registry) => {
    const text = await readFile(path, "utf8").catch(() => undefined);
    if (text === undefined) return undefined;
    const parsed = dockerConfigSchema.safeParse(parseJson(text));
    if (!parsed.success)
      throw new PlatformError("invalidArgument", `${path} is not a docker configuration`, { field: path });
    const auths = parsed.data.auths ?? {};
    const entry =
      auths[registry] ??
      auths[`https://${registry}`] ??
      (registry === "docker.io" ? auths["https://index.docker.io/v1/"] : undefined);
    if (entry?.username !== undefined && entry.password !== undefined)
      return { username: entry.username, password: entry.password };
    const decoded = Buffer.from(entry?.auth ?? "", "base64").toString("utf8");
    const colon = decoded.indexOf(":");
    return colon === -1
      ? undefined
      : { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
  };
}

export type Challenge =
  | { scheme: "basic" }
  | { scheme: "bearer"; realm: URL; service: string | undefined; scope: string | undefined };

/** Reads a WWW-Authenticate header. Undefined when it holds nothing that is understood. */
export function parseChallenge(header: string | null): Challenge | undefined {
  if (header === null) return undefined;
  if (/^basic\b/i.test(header)) return { scheme: "basic" };
  if (!/^bearer\b/i.test(header)) return undefined;
  const parameters = new Map<string, string>();
  for (const match of header.matchAll(/(\w+)=(?:"([^"]*)"|([^\s,]+))/g))
    parameters.set((match[1] ?? "").toLowerCase(), match[2] ?? match[3] ?? "");
  const realm = URL.parse(parameters.get("realm") ?? "");
  if (realm === null || (realm.protocol !== "https:" && realm.protocol !== "http:")) return undefined;
  return { scheme: "bearer", realm, service: parameters.get("service"), scope: parameters.get("scope") };
}

export function basicHeader({ username, password }: RegistryCredentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`, "utf8").toString("base64")}`;
}

const tokenSchema = z.looseObject({ token: z.string().optional(), access_token: z.string().optional() });

/** Fetches a token. Throws `unauthenticated` or `unavailable`. */
export async function fetchToken(
  challenge: Extract<Challenge, { scheme: "bearer" }>,
  scope: string,
  credentials: RegistryCredentials | undefined,
  signal: AbortSignal,
): Promise<string> {
  const url = new URL(challenge.realm);
  if (challenge.service !== undefined) url.searchParams.set("service", challenge.service);
  url.searchParams.set("scope", challenge.scope ?? scope);
  // Credentials never go over plain HTTP to a host that the registry's answer chose, unless it is this machine.
  const safe = url.protocol === "https:" || isLoopback(url.hostname);
  const headers = credentials !== undefined && safe ? { authorization: basicHeader(credentials) } : undefined;
  const response = await fetch(url, { signal, ...(headers && { headers }) });
  const text = await response.text();
  if (!response.ok) {
    const code = response.status >= 500 || response.status === 429 ? "unavailable" : "unauthenticated";
    throw new PlatformError(code, `${url.origin} gave no token for ${scope} (HTTP ${response.status})`, {
      remedy: "Check the registry credentials.",
    });
  }
  const parsed = tokenSchema.safeParse(parseJson(text));
  const token = parsed.success ? (parsed.data.token ?? parsed.data.access_token) : undefined;
  if (token === undefined)
    throw new PlatformError("unauthenticated", `${url.origin} answered without a token`);
  return token;
}

export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || /^127\.\d+\.\d+\.\d+$/.test(hostname);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
