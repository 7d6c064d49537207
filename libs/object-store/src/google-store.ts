// A Google Cloud Storage bucket by its JSON API. An object's generation stands for its ETag: it pins reads and conditions writes.
// Small bodies are one multipart upload; larger ones a resumable session, which is asked how far it came when an answer was
// lost. The far side is told the MD5 of small bodies, and everybody's conditional writes carry a token: when a write's answer
// was lost and its repetition meets its own object, the token tells that it was ours.
// After https://cloud.google.com/storage/docs/json_api
import { createHash, randomUUID } from "node:crypto";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { TokenSource } from "./access-token.ts";
import { type HttpClient, type HttpResponse, readBody, readErrorText, statusError } from "./http.ts";
import { HttpReads } from "./http-reads.ts";
import { checkKey } from "./keys.ts";
import { goneMeanwhile, putBody } from "./put-body.ts";
import type { RetryBudget } from "./retry-budget.ts";
import type {
  ByteSource,
  ListOptions,
  ObjectInfo,
  ObjectStore,
  PutBody,
  PutOptions,
  ReadOptions,
} from "./store.ts";

const JSON_BYTES_MAX = 16 * 1024 * 1024;
const WRITE_TOKEN = "pilotlight-write";
/** Without a token nothing expires, but addresses are looked up again now and then all the same. */
const ANONYMOUS_LIFE_MS = 60 * 60_000;
const SESSION_ATTEMPTS_MAX = 5;
const GENERATION = /^\d{1,20}$/;

export type GoogleStoreOptions = {
  uri: string;
  bucket: string;
  /** Empty, or ends with "/". */
  prefix: string;
  /** Without a trailing slash. */
  endpoint: string;
  /** Undefined: no token. */
  token: TokenSource | undefined;
  http: HttpClient;
  budget: RetryBudget;
};

/** What the API says of an object. */
type Resource = { name: string; size: string; generation: string; updated: string; metadata?: object };
type Query = Record<string, string>;
type Call = {
  method: "GET" | "POST" | "DELETE";
  path: string;
  query?: Query;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal | undefined;
};
type Answer = { text: string; header: HttpResponse["header"] };

export function createGoogleStore(options: GoogleStoreOptions): ObjectStore {
  return new GoogleStore(options);
}

class GoogleStore implements ObjectStore {
  readonly uri: string;
  readonly writable = true;
  readonly #options: GoogleStoreOptions;
  readonly #reads: HttpReads;

  constructor(options: GoogleStoreOptions) {
    this.uri = options.uri;
    this.#options = options;
    this.#reads = new HttpReads({
      http: options.http,
      budget: options.budget,
      prepare: async (_method, key, _signal, ifMatch) => this.#media(key, ifMatch),
      etagOf: (response) => response.header("x-goog-generation"),
      explain,
    });
  }

  async head(key: string, { signal }: { signal?: AbortSignal } = {}): Promise<ObjectInfo | undefined> {
    const resource = await this.#resource(key, signal);
    return resource === undefined ? undefined : infoOf(key, resource);
  }

  async get(key: string, options: ReadOptions & { bytesMax?: number } = {}) {
    return this.#reads.get(key, options);
  }

  async stream(key: string, options: ReadOptions = {}) {
    return this.#reads.stream(key, options);
  }

  async locate(
    key: string,
    { signal, known }: { signal?: AbortSignal; known?: ObjectInfo } = {},
  ): Promise<ByteSource> {
    const info = known ?? (await this.head(key, signal === undefined ? {} : { signal }));
    if (info === undefined) throw new PlatformError("notFound", `no object ${key} in ${this.uri}`);
    return { ...(await this.#place(key, info.etag)), info, etagAskable: false }; // The URL asks for the generation.
  }

  place = (key: string) => this.#place(key, undefined);
  async #place(key: string, generation: string | undefined) {
    const { url, headers, expiresAt } = await this.#media(key, generation);
    return { kind: "http" as const, url: url.href, headers, expiresAt };
  }

  async put(key: string, body: PutBody, options: PutOptions = {}): Promise<ObjectInfo> {
    const name = this.#full(key);
    const token = randomUUID();
    try {
      const resource = await putResource(key, body, options, {
        single: (bytes) => this.#putSingle(name, bytes, token, options),
        inParts: (parts, verify) => this.#putSession(name, parts, verify, token, options),
      });
      return infoOf(key, resource);
    } catch (error) {
      const gone = options.ifMatch !== undefined && (error as PlatformError).code === "notFound";
      throw gone ? goneMeanwhile(key, error) : error;
    }
  }

  async *list(options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    const { prefix = "", startAfter, signal } = options;
    let pageToken: string | undefined;
    do {
      const query: Query = {
        prefix: this.#options.prefix + prefix,
        fields: "items(name,size,generation,updated),nextPageToken",
      };
      // Inclusive: the key itself is left out below.
      if (startAfter !== undefined) query.startOffset = this.#options.prefix + startAfter;
      if (pageToken !== undefined) query.pageToken = pageToken;
      const { text } = await this.#call({ method: "GET", path: this.#bucketPath("o"), query, signal });
      const page = parseJson<{ items?: Resource[]; nextPageToken?: string }>(text);
      for (const resource of page.items ?? []) {
        const key = resource.name.slice(this.#options.prefix.length);
        if (key !== startAfter && isKey(key)) yield infoOf(key, resource);
      }
      pageToken = page.nextPageToken || undefined;
    } while (pageToken !== undefined);
  }

  async delete(key: string, options: { ifMatch?: string; signal?: AbortSignal } = {}): Promise<void> {
    const { ifMatch, signal } = options;
    const query: Query = ifMatch === undefined ? {} : { ifGenerationMatch: generation(ifMatch) };
    try {
      await this.#call({ method: "DELETE", path: this.#objectPath(key), query, signal });
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

  #bucketPath(rest: string): string {
    return `/storage/v1/b/${encodeURIComponent(this.#options.bucket)}/${rest}`;
  }

  #objectPath(key: string): string {
    return this.#bucketPath(`o/${encodeURIComponent(this.#full(key))}`);
  }

  async #resource(key: string, signal: AbortSignal | undefined): Promise<Resource | undefined> {
    try {
      const { text } = await this.#call({ method: "GET", path: this.#objectPath(key), signal });
      return parseJson<Resource>(text);
    } catch (error) {
      if ((error as PlatformError).code === "notFound") return undefined;
      throw error;
    }
  }

  /** Where an object's bytes are, of one generation if that is asked for. */
  async #media(key: string, ifMatch: string | undefined) {
    const query: Query = { alt: "media" };
    if (ifMatch !== undefined) query.ifGenerationMatch = generation(ifMatch);
    const { headers, expiresAt } = await this.#authorization();
    return { url: this.#url(this.#objectPath(key), query), headers, expiresAt };
  }

  async #authorization(): Promise<{ headers: Record<string, string>; expiresAt: number }> {
    const { token: source } = this.#options;
    if (source === undefined) return { headers: {}, expiresAt: Date.now() + ANONYMOUS_LIFE_MS };
    const { token, expiresAt } = await source();
    return { headers: { authorization: `Bearer ${token}` }, expiresAt };
  }

  #url(path: string, query: Query): URL {
    const url = new URL(`${this.#options.endpoint}${path}`);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    return url;
  }

  /** Metadata and bytes in one request, all or nothing. */
  async #putSingle(name: string, bytes: Uint8Array, token: string, options: PutOptions): Promise<Resource> {
    const boundary = `pilotlight-${token}`;
    const md5Hash = createHash("md5").update(bytes).digest("base64");
    const { contentType = "application/octet-stream", signal } = options;
    const metadata = JSON.stringify({ name, md5Hash, contentType, metadata: { [WRITE_TOKEN]: token } });
    const body = Buffer.concat([
      Buffer.from(`--${boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n${metadata}\r\n`),
      Buffer.from(`--${boundary}\r\ncontent-type: ${contentType}\r\n\r\n`),
      bytes,
      Buffer.from(`\r\n--${boundary}--\r\n`),
    ]);
    const { text } = await this.#call(
      {
        method: "POST",
        path: `/upload${this.#bucketPath("o")}`,
        query: { uploadType: "multipart", ...conditions(options) },
        headers: { "content-type": `multipart/related; boundary=${boundary}` },
        body,
        signal,
      },
      (error, attempt) => this.#ownWrite(name, token, error, attempt),
    );
    return parseJson<Resource>(text);
  }

  async #putSession(
    name: string,
    parts: AsyncIterable<Uint8Array>,
    verify: () => void,
    token: string,
    options: PutOptions,
  ): Promise<Resource> {
    const { contentType = "application/octet-stream", signal } = options;
    const { header } = await this.#call({
      method: "POST",
      path: `/upload${this.#bucketPath("o")}`,
      query: { uploadType: "resumable", ...conditions(options) },
      headers: { "content-type": "application/json; charset=UTF-8" },
      body: Buffer.from(JSON.stringify({ name, contentType, metadata: { [WRITE_TOKEN]: token } })),
      signal,
    });
    const session = URL.parse(header("location") ?? "");
    if (session === null)
      throw new PlatformError("corrupt", `PUT ${name}: the answer names no upload session`);
    try {
      let offset = 0;
      let held: Uint8Array | undefined;
      for await (const part of parts) {
        if (held !== undefined) {
          await this.#sendPart(session, held, { offset, last: false, signal });
          offset += held.byteLength;
        }
        held = part;
      }
      verify();
      const text = await this.#sendPart(session, held ?? new Uint8Array(), { offset, last: true, signal });
      return parseJson<Resource>(text);
    } catch (thrown) {
      const error = toPlatformError(thrown);
      const own = await this.#ownWrite(name, token, error, 2).catch(() => undefined);
      if (own !== undefined) return parseJson<Resource>(own.text);
      // Best effort: sessions that nobody ends are forgotten after a week.
      await this.#send(session, "DELETE", {}, undefined, undefined).catch(() => undefined);
      throw thrown;
    }
  }

  /**
   * One part, sent again from where the session stands when its answer was lost. Returns the last part's answer.
   */
  async #sendPart(
    session: URL,
    part: Uint8Array,
    place: { offset: number; last: boolean; signal: AbortSignal | undefined },
  ): Promise<string> {
    const { offset, last, signal } = place;
    const end = offset + part.byteLength;
    const total = last ? String(end) : "*";
    let at = offset;
    for (let attempt = 1; ; attempt++) {
      try {
        if (attempt > 1) {
          const range = { "content-range": `bytes */${total}` };
          const state = await this.#send(session, "PUT", range, new Uint8Array(), signal);
          if (state.status !== 308) return state.text;
          at = receivedEnd(state.range);
        }
        if (at < offset || at > end) {
          throw new PlatformError("corrupt", "the upload session lost bytes that it had");
        }
        if (at < end || last) {
          const span = at === end ? "*" : `${at}-${end - 1}`;
          const headers = { "content-range": `bytes ${span}/${total}` };
          const answer = await this.#send(session, "PUT", headers, part.subarray(at - offset), signal);
          if (answer.status !== 308) return answer.text;
          at = receivedEnd(answer.range);
        }
        if (at === end && !last) return "";
        throw new PlatformError("unavailable", "the upload session took a part of what was sent");
      } catch (thrown) {
        const error = toPlatformError(thrown);
        const again = error.retryable && attempt < SESSION_ATTEMPTS_MAX && this.#options.budget.take();
        if (!again || signal?.aborted === true) throw thrown;
      }
    }
  }

  /** A request to a session. 308 is an answer: it wants more. */
  async #send(
    url: URL,
    method: "PUT" | "DELETE",
    headers: Record<string, string>,
    body: Uint8Array | undefined,
    signal: AbortSignal | undefined,
  ): Promise<{ status: number; text: string; range: string | undefined }> {
    const response = await this.#options.http.send({
      method,
      url,
      headers: { ...(await this.#authorization()).headers, ...headers },
      ...(body === undefined ? {} : { body }),
      signal,
    });
    const { status } = response;
    if (status !== 308 && (status < 200 || status > 299)) throw await errorOf(response, "upload session");
    const text = (await readBody(response.body, JSON_BYTES_MAX)).toString("utf8");
    return { status, text, range: response.header("range") };
  }

  /** Sends with retries. `onFailure` may turn the failure of a repeated attempt into its result. */
  async #call(
    call: Call,
    onFailure?: (error: PlatformError, attempt: number) => Promise<Answer | undefined>,
  ): Promise<Answer> {
    const { budget, http } = this.#options;
    return budget.run(async (attempt) => {
      const { headers } = await this.#authorization();
      const response = await http.send({
        method: call.method,
        url: this.#url(call.path, call.query ?? {}),
        headers: { ...headers, ...call.headers },
        ...(call.body === undefined ? {} : { body: call.body }),
        signal: call.signal,
      });
      if (response.status >= 200 && response.status < 300) {
        const text = (await readBody(response.body, JSON_BYTES_MAX)).toString("utf8");
        return { text, header: response.header };
      }
      const error = await errorOf(response, `${call.method} ${this.#options.bucket}`);
      const answer = await onFailure?.(error, attempt);
      if (answer === undefined) throw error;
      return answer;
    }, call.signal);
  }

  /** What there is when it carries our token, i.e. our earlier write succeeded after all. */
  async #ownWrite(
    name: string,
    token: string,
    error: PlatformError,
    attempt: number,
  ): Promise<Answer | undefined> {
    if (attempt === 1 || error.code !== "preconditionFailed") return undefined;
    const path = this.#bucketPath(`o/${encodeURIComponent(name)}`);
    const answer = await this.#call({ method: "GET", path });
    const { metadata } = parseJson<{ metadata?: Record<string, unknown> }>(answer.text);
    return metadata?.[WRITE_TOKEN] === token ? answer : undefined;
  }
}

/** `putBody` for a writer that gives the API's own description. */
async function putResource(
  key: string,
  body: PutBody,
  options: PutOptions,
  writer: {
    single(bytes: Uint8Array): Promise<Resource>;
    inParts(parts: AsyncIterable<Uint8Array>, verify: () => void): Promise<Resource>;
  },
): Promise<Resource> {
  let written: Resource | undefined;
  const keep = (resource: Resource): ObjectInfo => {
    written = resource;
    return infoOf(key, resource);
  };
  await putBody(key, body, options, {
    single: async (bytes) => keep(await writer.single(bytes)),
    inParts: async (parts, verify) => keep(await writer.inParts(parts, verify)),
  });
  return written as Resource;
}

/** "bytes=0-N" as N + 1; 0 without it. */
function receivedEnd(range: string | undefined): number {
  const last = /^bytes=0-(\d{1,15})$/.exec(range ?? "")?.[1];
  return last === undefined ? 0 : Number(last) + 1;
}

function conditions({ ifNoneMatch, ifMatch }: PutOptions): Query {
  if (ifNoneMatch !== undefined) return { ifGenerationMatch: "0" };
  return ifMatch === undefined ? {} : { ifGenerationMatch: generation(ifMatch) };
}

/** An ETag of another store, or a made-up one, matches nothing here. */
function generation(etag: string): string {
  if (GENERATION.test(etag) && etag !== "0") return etag;
  throw new PlatformError(
    "preconditionFailed",
    `no object has the ETag ${JSON.stringify(etag.slice(0, 80))}`,
  );
}

function infoOf(key: string, { size, generation, updated }: Resource): ObjectInfo {
  // Whole seconds, as an answer with the object's bytes says it.
  const modifiedAt = Math.floor((Date.parse(updated) || 0) / 1000) * 1000;
  return { key, size: Number(size), etag: generation, modifiedAt };
}

function isKey(key: string): boolean {
  try {
    checkKey(key);
    return true;
  } catch {
    return false;
  }
}

function parseJson<T>(text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new PlatformError("corrupt", "the far side answered malformed JSON", { cause });
  }
}

async function errorOf(response: HttpResponse, what: string): Promise<PlatformError> {
  return statusError(response, what, explain(await readErrorText(response)));
}

/** The message of an error document, in one line. */
function explain(text: string): string {
  try {
    const { error } = JSON.parse(text) as { error?: { message?: unknown } };
    return typeof error?.message === "string" ? error.message.replace(/\s+/g, " ") : "";
  } catch {
    return "";
  }
}
