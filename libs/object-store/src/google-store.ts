// A Google Cloud Storage bucket by its JSON API. An object's generation stands for its ETag: it pins reads and conditions writes.
// Small bodies are one multipart upload; larger ones a resumable session (google-session.ts). The far side is told the MD5 of small bodies, and everybody's conditional writes carry a token: when a write's answer
// was lost and its repetition meets its own object, the token tells that it was ours.
// After https://cloud.google.com/storage/docs/json_api
import { createHash, randomUUID } from "node:crypto";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import {
  type Answer,
  type Call,
  explain,
  type GoogleRequestOptions,
  GoogleRequests,
  parseJson,
  type Query,
} from "./google-requests.ts";
import { uploadInSession } from "./google-session.ts";
import { HttpReads } from "./http-reads.ts";
import { checkKey } from "./keys.ts";
import { goneMeanwhile, putBody } from "./put-body.ts";
import type {
  ByteSource,
  ListOptions,
  ObjectInfo,
  ObjectStore,
  PutBody,
  PutOptions,
  ReadOptions,
} from "./store.ts";

const WRITE_TOKEN = "pilotlight-write";
const GENERATION = /^\d{1,20}$/;

export type GoogleStoreOptions = GoogleRequestOptions & {
  uri: string;
  bucket: string;
  /** Empty, or ends with "/". */
  prefix: string;
};

/** What the API says of an object. */
type Resource = { name: string; size: string; generation: string; updated: string; metadata?: object };

export function createGoogleStore(options: GoogleStoreOptions): ObjectStore {
  return new GoogleStore(options);
}

class GoogleStore implements ObjectStore {
  readonly uri: string;
  readonly writable = true;
  readonly #options: GoogleStoreOptions;
  readonly #requests: GoogleRequests;
  readonly #reads: HttpReads;

  constructor(options: GoogleStoreOptions) {
    this.uri = options.uri;
    this.#options = options;
    this.#requests = new GoogleRequests(options);
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
      const { text } = await this.#requests.call({
        method: "GET",
        path: this.#bucketPath("o"),
        query,
        signal,
      });
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
      await this.#requests.call({ method: "DELETE", path: this.#objectPath(key), query, signal });
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
      const { text } = await this.#requests.call({ method: "GET", path: this.#objectPath(key), signal });
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
    const { headers, expiresAt } = await this.#requests.authorization();
    return { url: this.#requests.url(this.#objectPath(key), query), headers, expiresAt };
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
    const { text } = await this.#requests.call(
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
    const begin: Call = {
      method: "POST",
      path: `/upload${this.#bucketPath("o")}`,
      query: { uploadType: "resumable", ...conditions(options) },
      headers: { "content-type": "application/json; charset=UTF-8" },
      body: Buffer.from(JSON.stringify({ name, contentType, metadata: { [WRITE_TOKEN]: token } })),
      signal,
    };
    try {
      return parseJson<Resource>(await uploadInSession(this.#requests, begin, parts, verify));
    } catch (thrown) {
      const own = await this.#ownWrite(name, token, toPlatformError(thrown), 2).catch(() => undefined);
      if (own !== undefined) return parseJson<Resource>(own.text);
      throw thrown;
    }
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
    const answer = await this.#requests.call({ method: "GET", path });
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
