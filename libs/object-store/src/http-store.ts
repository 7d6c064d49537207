// A plain web server's folder, read only: https://host/path/ plus the key.
import { PlatformError } from "@pilotlight/errors";
import type { HttpClient } from "./http.ts";
import { HttpReads, isStrong } from "./http-reads.ts";
import { checkKey } from "./keys.ts";
import type { RetryBudget } from "./retry-budget.ts";
import { encodePath } from "./sigv4.ts";
import type { ByteSource, ListOptions, ObjectInfo, ObjectStore } from "./store.ts";

/** Where redirects lead is often signed for some minutes. */
const REDIRECT_LIFE_MS = 5 * 60_000;

export type HttpStoreOptions = {
  uri: string;
  /** Ends with "/". */
  base: string;
  http: HttpClient;
  budget: RetryBudget;
  /** Sent as a bearer token. */
  token: string | undefined;
};

export function createHttpStore(options: HttpStoreOptions): ObjectStore {
  const headers: Record<string, string> =
    options.token === undefined ? {} : { authorization: `Bearer ${options.token}` };
  const urlOf = (key: string): URL => {
    checkKey(key);
    return new URL(encodePath(key), options.base);
  };
  const reads = new HttpReads({
    http: options.http,
    budget: options.budget,
    prepare: async (_method, key) => ({ url: urlOf(key), headers }),
    followRedirects: true,
    explain: () => "",
  });
  const place = (key: string) => ({
    kind: "http" as const,
    url: urlOf(key).href,
    headers,
    expiresAt: Number.POSITIVE_INFINITY,
  });
  return {
    uri: options.uri,
    writable: false,
    head: async (key, { signal } = {}) => reads.head(key, signal),
    get: async (key, readOptions) => reads.get(key, readOptions),
    stream: async (key, readOptions) => reads.stream(key, readOptions),
    locate: async (key, { signal } = {}): Promise<ByteSource> => {
      const found = await reads.find(key, signal);
      if (found === undefined) throw new PlatformError("notFound", `no object ${key} at ${options.uri}`);
      const { info, url, headers, redirected } = found;
      const expiresAt = redirected ? Date.now() + REDIRECT_LIFE_MS : Number.POSITIVE_INFINITY;
      return { kind: "http", url: url.href, headers, expiresAt, info, etagAskable: isStrong(info.etag) };
    },
    place: async (key) => place(key),
    put: () => Promise.reject(readOnly(options.uri)),
    delete: () => Promise.reject(readOnly(options.uri)),
    list: (_options?: ListOptions): AsyncIterable<ObjectInfo> => {
      throw new PlatformError("unsupported", `${options.uri}: a web server cannot be listed`, {
        remedy: "Name the files, or use s3:// or hf://.",
      });
    },
    close: async () => options.http.close(),
  };
}

/** The answer to every attempt to write to a read-only store. */
export function readOnly(uri: string): PlatformError {
  return new PlatformError("unsupported", `${uri} is read-only`, {
    remedy: "Write to file:// or s3://.",
  });
}
