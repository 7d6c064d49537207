// A repository of a model hub (Hugging Face's layout and API), read only. The revision is resolved to a commit once,
// so everything read through one store is of one commit. A file's address redirects to wherever its bytes are; the
// token goes only to the hub itself. Endpoints seen: /api/models/R/revision/REV, /api/models/R/tree/SHA,
// /R/resolve/SHA/FILE with X-Linked-Size and X-Linked-Etag (https://huggingface.co/docs/hub/api).
import { PlatformError } from "@pilotlight/errors";
import { type HttpClient, type HttpResponse, readBody, readErrorText, statusError } from "./http.ts";
import { HttpReads, type Prepared } from "./http-reads.ts";
import { readOnly } from "./http-store.ts";
import { checkKey, compareKeys } from "./keys.ts";
import { REDIRECTS_MAX, redirectTarget, tooManyRedirects } from "./redirects.ts";
import type { RetryBudget } from "./retry-budget.ts";
import { encodePath } from "./sigv4.ts";
import type { BytePlace, ByteSource, ListOptions, ObjectInfo, ObjectStore, ReadOptions } from "./store.ts";

const JSON_BYTES_MAX = 16 * 1024 * 1024;
const FILES_MAX = 100_000;
/** Redirect targets are signed for about an hour. */
const ADDRESS_LIFE_MS = 5 * 60_000;

export type HubStoreOptions = {
  uri: string;
  kind: "models" | "datasets";
  repository: string;
  revision: string;
  /** Without a trailing slash. */
  endpoint: string;
  token: string | undefined;
  http: HttpClient;
  budget: RetryBudget;
};

export function createHubStore(options: HubStoreOptions): ObjectStore {
  return new HubStore(options);
}

type Address = Prepared & { info: ObjectInfo; expiresAt: number };

class HubStore implements ObjectStore {
  readonly uri: string;
  readonly writable = false;
  readonly #options: HubStoreOptions;
  readonly #reads: HttpReads;
  readonly #addresses = new Map<string, Address>();
  #commit: Promise<string> | undefined;

  constructor(options: HubStoreOptions) {
    this.uri = options.uri;
    this.#options = options;
    this.#reads = new HttpReads({
      http: options.http,
      budget: options.budget,
      prepare: async (_method, key, signal) => {
        const address = await this.#resolve(key, signal);
        if (address === undefined) throw new PlatformError("notFound", `no file ${key} in ${this.uri}`);
        return address;
      },
      explain: () => "",
    });
  }

  async head(key: string, { signal }: { signal?: AbortSignal } = {}): Promise<ObjectInfo | undefined> {
    return (await this.#options.budget.run(() => this.#resolve(key, signal), signal))?.info;
  }

  async get(key: string, options: ReadOptions & { bytesMax?: number } = {}) {
    return this.#reads.get(key, options);
  }

  async stream(key: string, options: ReadOptions = {}) {
    return this.#reads.stream(key, options);
  }

  async locate(key: string, { signal }: { signal?: AbortSignal } = {}): Promise<ByteSource> {
    const address = await this.#options.budget.run(() => this.#resolve(key, signal), signal);
    if (address === undefined) throw new PlatformError("notFound", `no file ${key} in ${this.uri}`);
    const { url, headers, info, expiresAt } = address;
    // The bytes come from elsewhere, under an ETag of its own; the URL names one commit's file.
    return { kind: "http", url: url.href, headers, info, expiresAt, etagAskable: false };
  }

  /** The hub has to be asked for it. */
  async place(key: string, options: { signal?: AbortSignal } = {}): Promise<BytePlace> {
    return this.locate(key, options);
  }

  async *list(options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    const { prefix = "", startAfter = "", signal } = options;
    const files: ObjectInfo[] = [];
    const { kind, repository, endpoint } = this.#options;
    const path = `${endpoint}/api/${kind}/${encodePath(repository)}/tree/${await this.#sha(signal)}?recursive=true`;
    for (let url: URL | undefined = new URL(path); url !== undefined; ) {
      const page = await this.#json(url, signal);
      if (!Array.isArray(page.value)) throw malformed(this.uri);
      files.push(...page.value.map(listedFile).filter((file) => file !== undefined));
      if (files.length > FILES_MAX) {
        throw new PlatformError("resourceExhausted", `${this.uri} has more than ${FILES_MAX} files`);
      }
      url = page.next;
    }
    yield* files
      .filter(({ key }) => key.startsWith(prefix) && compareKeys(key, startAfter) > 0)
      .sort((a, b) => compareKeys(a.key, b.key));
  }

  revision({ signal }: { signal?: AbortSignal } = {}): Promise<string> {
    return this.#sha(signal);
  }

  async put(): Promise<never> {
    throw readOnly(this.uri);
  }

  async delete(): Promise<never> {
    throw readOnly(this.uri);
  }

  async close(): Promise<void> {
    this.#options.http.close();
  }

  #sha(signal: AbortSignal | undefined): Promise<string> {
    this.#commit ??= this.#options.budget
      .run(async () => {
        const { kind, repository, revision, endpoint } = this.#options;
        const url = `${endpoint}/api/${kind}/${encodePath(repository)}/revision/${encodeURIComponent(revision)}`;
        const { value } = await this.#json(new URL(url), signal);
        const sha = (value as { sha?: unknown } | null)?.sha;
        if (typeof sha !== "string" || !/^[0-9a-f]{40,64}$/.test(sha)) throw malformed(this.uri);
        return sha;
      }, signal)
      .catch((error: unknown) => {
        this.#commit = undefined;
        throw error;
      });
    return this.#commit;
  }

  /** Follows a file's address to where its bytes are. Undefined when there is no such file. */
  async #resolve(key: string, signal: AbortSignal | undefined): Promise<Address | undefined> {
    checkKey(key);
    const known = this.#addresses.get(key);
    if (known !== undefined && Date.now() < known.expiresAt) return known;
    const { kind, repository, endpoint, http } = this.#options;
    const owner = kind === "datasets" ? "datasets/" : "";
    let url = new URL(
      `${endpoint}/${owner}${encodePath(repository)}/resolve/${await this.#sha(signal)}/${encodePath(key)}`,
    );
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      const headers = this.#headersFor(url);
      const response = await http.send({ method: "HEAD", url, headers, signal });
      response.body.resume();
      if (response.status === 404) return undefined;
      const location = redirectTarget(response, url);
      const linked = linkedInfo(key, response);
      if (location !== undefined && linked === undefined) {
        url = location;
        continue;
      }
      if (location === undefined && response.status !== 200) throw statusError(response, `HEAD ${key}`, "");
      if (linked === undefined) throw malformed(this.uri);
      const target = location ?? url;
      const expiresAt = Date.now() + ADDRESS_LIFE_MS;
      const address = { url: target, headers: this.#headersFor(target), info: linked, expiresAt };
      this.#addresses.set(key, address);
      return address;
    }
    throw tooManyRedirects(`HEAD ${key}`);
  }

  #headersFor(url: URL): Record<string, string> {
    const { token, endpoint } = this.#options;
    return token !== undefined && url.origin === new URL(endpoint).origin
      ? { authorization: `Bearer ${token}` }
      : {};
  }

  async #json(url: URL, signal: AbortSignal | undefined): Promise<{ value: unknown; next: URL | undefined }> {
    const response = await this.#options.http.send({
      method: "GET",
      url,
      headers: this.#headersFor(url),
      signal,
    });
    if (response.status !== 200) {
      throw statusError(response, `reading ${this.uri}`, (await readErrorText(response)).slice(0, 200));
    }
    const text = (await readBody(response.body, JSON_BYTES_MAX)).toString("utf8");
    const next = /<([^>]+)>;\s*rel="next"/.exec(response.header("link") ?? "")?.[1];
    try {
      return { value: JSON.parse(text), next: next === undefined ? undefined : new URL(next, url) };
    } catch (cause) {
      throw new PlatformError("corrupt", `${this.uri}: the hub answered malformed JSON`, { cause });
    }
  }
}

/** Size and identity: of the large file behind a redirect where the hub says them, else of this answer. */
function linkedInfo(key: string, response: HttpResponse): ObjectInfo | undefined {
  const redirected = response.status >= 300 && response.status < 400;
  const size =
    response.header("x-linked-size") ?? (redirected ? undefined : response.header("content-length"));
  const etag = response.header("x-linked-etag") ?? (redirected ? undefined : response.header("etag"));
  if (size === undefined || etag === undefined || !/^\d{1,15}$/.test(size)) return undefined;
  return { key, size: Number(size), etag: etag.replace(/^W\//, "").replace(/^"|"$/g, ""), modifiedAt: 0 };
}

function listedFile(entry: unknown): ObjectInfo | undefined {
  const { type, path, size, oid, lfs } = entry as Record<string, unknown>;
  if (type !== "file" || typeof path !== "string" || typeof size !== "number") return undefined;
  const etag = (lfs as { oid?: unknown } | undefined)?.oid ?? oid;
  try {
    checkKey(path);
  } catch {
    return undefined;
  }
  return { key: path, size, etag: String(etag), modifiedAt: 0 };
}

function malformed(uri: string): PlatformError {
  return new PlatformError("corrupt", `${uri}: the hub's answer has not the expected form`, {
    remedy: "Check the endpoint: it must speak the Hugging Face hub API.",
  });
}
