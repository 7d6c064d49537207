// An Azure Blob Storage container by its REST API. Small bodies are one Put Blob; larger ones go up as blocks that count only
// when their list is committed. ETags pin reads and condition writes as they do in S3. Conditional writes carry a token: when a
// write's answer was lost and its repetition meets its own blob, the token tells that it was ours.
// After https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api
import { createHash, randomUUID } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import type { AzureAccount } from "./azure-credentials.ts";
import { type HttpClient, type HttpResponse, readBody, readErrorText, statusError } from "./http.ts";
import { HttpReads } from "./http-reads.ts";
import { checkKey, compareKeys } from "./keys.ts";
import { goneMeanwhile, putBody, uploadParts } from "./put-body.ts";
import { checkRange } from "./ranges.ts";
import type { RetryBudget } from "./retry-budget.ts";
import { encodePath } from "./sigv4.ts";
import type {
  ByteSource,
  ListOptions,
  ObjectInfo,
  ObjectStore,
  PutBody,
  PutOptions,
  ReadOptions,
} from "./store.ts";
import { childText, parseXml, type XmlElement } from "./xml.ts";

const API_VERSION = "2022-11-02";
/** A page of 5000 blobs of 1 KB names, with room. */
const XML_BYTES_MAX = 16 * 1024 * 1024;
const WRITE_TOKEN = "x-ms-meta-pilotlight_write";

export type AzureStoreOptions = {
  uri: string;
  account: AzureAccount;
  container: string;
  /** Empty, or ends with "/". */
  prefix: string;
  http: HttpClient;
  budget: RetryBudget;
};

type Call = {
  method: "GET" | "HEAD" | "PUT" | "DELETE";
  /** Full name in the container; empty for the container itself. */
  name: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal | undefined;
};

type Answer = { etag: string; modifiedAt: number; text: string };

export function createAzureStore(options: AzureStoreOptions): ObjectStore {
  return new AzureStore(options);
}

class AzureStore implements ObjectStore {
  readonly uri: string;
  readonly writable = true;
  readonly #options: AzureStoreOptions;
  readonly #reads: HttpReads;

  constructor(options: AzureStoreOptions) {
    this.uri = options.uri;
    this.#options = options;
    this.#reads = new HttpReads({
      http: options.http,
      budget: options.budget,
      prepare: (_method, key) => this.#prepare({ method: "GET", name: this.#full(key) }),
      explain,
      refine,
    });
  }

  async head(key: string, { signal }: { signal?: AbortSignal } = {}): Promise<ObjectInfo | undefined> {
    return this.#reads.head(key, signal);
  }

  async get(key: string, options: ReadOptions & { bytesMax?: number } = {}) {
    return this.#reads.get(key, await this.#plainRange(key, options));
  }

  async stream(key: string, options: ReadOptions = {}) {
    return this.#reads.stream(key, await this.#plainRange(key, options));
  }

  async locate(
    key: string,
    { signal, known }: { signal?: AbortSignal; known?: ObjectInfo } = {},
  ): Promise<ByteSource> {
    const info = known ?? (await this.head(key, signal === undefined ? {} : { signal }));
    if (info === undefined) throw new PlatformError("notFound", `no object ${key} in ${this.uri}`);
    return { ...(await this.place(key)), info, etagAskable: true };
  }

  async place(key: string) {
    const { url, headers, expiresAt } = await this.#prepare({ method: "GET", name: this.#full(key) });
    return { kind: "http" as const, url: url.href, headers, expiresAt };
  }

  async put(key: string, body: PutBody, options: PutOptions = {}): Promise<ObjectInfo> {
    const name = this.#full(key);
    return putBody(key, body, options, {
      single: (bytes) => this.#putSingle(key, name, bytes, options),
      inParts: (parts, verify) => this.#putBlocks(key, name, parts, options, verify),
    });
  }

  async *list(options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    const { prefix = "", startAfter = "", signal } = options;
    let marker: string | undefined;
    do {
      const query = { restype: "container", comp: "list", prefix: this.#options.prefix + prefix };
      const { text } = await this.#call({
        method: "GET",
        name: "",
        query: marker === undefined ? query : { ...query, marker },
        signal,
      });
      const page = await parseXml(text);
      const blobs = page.children.find((child) => child.name === "Blobs")?.children ?? [];
      for (const blob of blobs) {
        const info = listedBlob(blob, this.#options.prefix);
        if (info !== undefined && compareKeys(info.key, startAfter) > 0) yield info;
      }
      marker = childText(page, "NextMarker") || undefined;
    } while (marker !== undefined);
  }

  async delete(key: string, options: { ifMatch?: string; signal?: AbortSignal } = {}): Promise<void> {
    const { ifMatch, signal } = options;
    try {
      const headers = conditions(ifMatch === undefined ? {} : { ifMatch });
      await this.#call({ method: "DELETE", name: this.#full(key), headers, signal });
    } catch (error) {
      if ((error as PlatformError).code !== "notFound") throw error;
      if (ifMatch !== undefined) throw goneMeanwhile(key, error);
    }
  }

  async close(): Promise<void> {
    this.#options.http.close();
  }

  #full(key: string): string {
    checkKey(key);
    return this.#options.prefix + key;
  }

  /** The service knows no suffix ranges: they are turned into plain ones of the object as it is now. */
  async #plainRange<T extends ReadOptions>(key: string, options: T): Promise<T> {
    checkRange(options.range);
    if (options.range === undefined || !("suffix" in options.range)) return options;
    const info = await this.head(key, options.signal === undefined ? {} : { signal: options.signal });
    if (info === undefined) throw new PlatformError("notFound", `no object ${key} in ${this.uri}`);
    const offset = Math.max(0, info.size - options.range.suffix);
    return { ...options, range: { offset }, ifMatch: options.ifMatch ?? info.etag };
  }

  async #putSingle(key: string, name: string, bytes: Uint8Array, options: PutOptions): Promise<ObjectInfo> {
    const token = randomUUID();
    const headers = {
      ...conditions(options),
      ...md5(bytes),
      [WRITE_TOKEN]: token,
      "x-ms-blob-type": "BlockBlob",
      "content-type": options.contentType ?? "application/octet-stream",
    };
    const call: Call = { method: "PUT", name, headers, body: bytes, signal: options.signal };
    const { etag, modifiedAt } = await this.#conditionalWrite(key, call, token, options);
    return { key, size: bytes.byteLength, etag, modifiedAt };
  }

  /** Blocks of another writer of the same blob have other names, so neither commits the other's. */
  async #putBlocks(
    key: string,
    name: string,
    parts: AsyncIterable<Uint8Array>,
    options: PutOptions,
    verify: () => void,
  ): Promise<ObjectInfo> {
    const token = randomUUID();
    const blockId = (index: number): string =>
      Buffer.from(`${token}-${String(index).padStart(5, "0")}`).toString("base64");
    let count = 0;
    const size = await uploadParts(parts, options.signal, async (index, body, signal) => {
      count = Math.max(count, index + 1);
      const query = { comp: "block", blockid: blockId(index) };
      await this.#call({ method: "PUT", name, query, headers: md5(body), body, signal });
    });
    verify();
    const blocks = Array.from({ length: count }, (_, i) => `<Uncommitted>${blockId(i)}</Uncommitted>`);
    const list = Buffer.from(
      `<?xml version="1.0" encoding="utf-8"?><BlockList>${blocks.join("")}</BlockList>`,
    );
    const headers = {
      ...conditions(options),
      [WRITE_TOKEN]: token,
      "content-type": "application/xml",
      "x-ms-blob-content-type": options.contentType ?? "application/octet-stream",
    };
    const call: Call = {
      method: "PUT",
      name,
      query: { comp: "blocklist" },
      headers,
      body: list,
      signal: options.signal,
    };
    const { etag, modifiedAt } = await this.#conditionalWrite(key, call, token, options);
    return { key, size, etag, modifiedAt };
  }

  async #conditionalWrite(key: string, call: Call, token: string, options: PutOptions): Promise<Answer> {
    try {
      return await this.#call(call, async (error, attempt) => {
        const mayBeOwn = error.code === "preconditionFailed" || error.code === "conflict";
        return attempt > 1 && mayBeOwn ? this.#ownWrite(call.name, token) : undefined;
      });
    } catch (error) {
      const gone = options.ifMatch !== undefined && (error as PlatformError).code === "notFound";
      throw gone ? goneMeanwhile(key, error) : error;
    }
  }

  /** What there is when it carries our token, i.e. our earlier write succeeded after all. */
  async #ownWrite(name: string, token: string): Promise<Answer | undefined> {
    const { url, headers } = await this.#prepare({ method: "HEAD", name });
    const response = await this.#options.http.send({ method: "HEAD", url, headers });
    response.body.resume();
    if (response.status !== 200 || response.header(WRITE_TOKEN) !== token) return undefined;
    return answerOf(response, "");
  }

  async #prepare({
    name,
    query,
  }: Call): Promise<{ url: URL; headers: Record<string, string>; expiresAt: number }> {
    const { account, container } = this.#options;
    const access = await account.access();
    const path = name === "" ? container : `${container}/${encodePath(name)}`;
    const given = new URLSearchParams(query).toString();
    const all = [given, access.query].filter((part) => part !== "").join("&");
    const url = new URL(`${account.endpoint}/${path}${all === "" ? "" : `?${all}`}`);
    const headers: Record<string, string> = { "x-ms-version": API_VERSION };
    if (access.token !== undefined) headers.authorization = `Bearer ${access.token}`;
    return { url, headers, expiresAt: access.expiresAt };
  }

  /** Sends with retries. `onFailure` may turn the failure of a repeated attempt into its result. */
  async #call(
    call: Call,
    onFailure?: (error: PlatformError, attempt: number) => Promise<Answer | undefined>,
  ): Promise<Answer> {
    const { budget, http } = this.#options;
    return budget.run(async (attempt) => {
      const { url, headers } = await this.#prepare(call);
      const response = await http.send({
        method: call.method,
        url,
        headers: { ...headers, ...call.headers },
        ...(call.body === undefined ? {} : { body: call.body }),
        signal: call.signal,
      });
      if (response.status >= 200 && response.status < 300) {
        return answerOf(response, (await readBody(response.body, XML_BYTES_MAX)).toString("utf8"));
      }
      const detail = await explain(await readErrorText(response));
      const what = `${call.method} ${call.name || this.#options.container}`;
      const error = refine(response, detail) ?? statusError(response, what, detail);
      const answer = await onFailure?.(error, attempt);
      if (answer === undefined) throw error;
      return answer;
    }, call.signal);
  }
}

const quoted = (etag: string): string => `"${etag}"`;
const unquoted = (etag: string): string => etag.replace(/^"|"$/g, "");

/** The far side refuses bytes that changed on the way. */
const md5 = (bytes: Uint8Array): Record<string, string> => ({
  "content-md5": createHash("md5").update(bytes).digest("base64"),
});

const conditions = (options: PutOptions): Record<string, string> => ({
  ...(options.ifNoneMatch === undefined ? {} : { "if-none-match": options.ifNoneMatch }),
  ...(options.ifMatch === undefined ? {} : { "if-match": quoted(options.ifMatch) }),
});

function answerOf(response: HttpResponse, text: string): Answer {
  const modifiedAt = Date.parse(response.header("last-modified") ?? "");
  return {
    etag: unquoted(response.header("etag") ?? ""),
    modifiedAt: Number.isNaN(modifiedAt) ? Date.now() : modifiedAt,
    text,
  };
}

/** "Code: message" of an error document, first line only: the rest repeats the request. */
async function explain(text: string): Promise<string> {
  if (!text.includes("<Error")) return "";
  const document = await parseXml(text.replace(/^\uFEFF/, "")).catch(() => undefined);
  if (document === undefined) return "";
  const message = (childText(document, "Message") ?? "").split("\n")[0] ?? "";
  return `${childText(document, "Code") ?? "Error"}: ${message}`;
}

/** Conflicts that are an expected answer to a condition, and those that are not. */
function refine(response: HttpResponse, detail: string): PlatformError | undefined {
  if (response.status !== 409) return undefined;
  const code = response.header("x-ms-error-code") ?? detail.split(":")[0];
  if (code === "BlobAlreadyExists") {
    return new PlatformError("preconditionFailed", detail, {
      remedy: "The object was created meanwhile: read it again.",
    });
  }
  return new PlatformError("conflict", detail);
}

/** A listed blob; undefined for folders and names that this platform does not use as keys. */
function listedBlob(blob: XmlElement, prefix: string): ObjectInfo | undefined {
  const key = childText(blob, "Name")?.slice(prefix.length) ?? "";
  const properties = blob.children.find((child) => child.name === "Properties");
  if (blob.name !== "Blob" || properties === undefined) return undefined;
  try {
    checkKey(key);
  } catch {
    return undefined;
  }
  return {
    key,
    size: Number(childText(properties, "Content-Length") ?? Number.NaN),
    etag: unquoted(childText(properties, "Etag") ?? ""),
    modifiedAt: Date.parse(childText(properties, "Last-Modified") ?? "") || 0,
  };
}
