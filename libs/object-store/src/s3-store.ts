// Any S3-compatible bucket. Small bodies are one PUT; a stream that outgrows one part becomes a multipart upload with
// a few parts in flight, so memory is bounded whatever the object's size. Every body is signed with its SHA-256, so
// the far side refuses bytes that changed on the way. Conditional writes carry a token: when a write's answer was lost
// and its repetition meets its own object, the token tells that it was ours.
import { randomUUID } from "node:crypto";
import { PlatformError } from "@pilotlight/errors";
import type { HttpClient } from "./http.ts";
import { HttpReads } from "./http-reads.ts";
import { checkKey } from "./keys.ts";
import { goneMeanwhile, putBody, uploadParts } from "./put-body.ts";
import type { RetryBudget } from "./retry-budget.ts";
import { describe, type S3Requests } from "./s3-requests.ts";
import type {
  ByteSource,
  ListOptions,
  ObjectInfo,
  ObjectStore,
  PutBody,
  PutOptions,
  ReadOptions,
} from "./store.ts";
import { childText, escapeXml, loadXmlParser, parseXml, type XmlElement } from "./xml.ts";

/** Completing copies the parts on some servers: minutes of silence for large objects. */
const COMPLETE_TIMEOUT_MS = 15 * 60_000;
/** Signatures live 15 minutes around the far side's clock; this leaves room for skew. */
const SIGNATURE_LIFE_MS = 10 * 60_000;
const WRITE_TOKEN = "x-amz-meta-pilotlight-write";

export type S3StoreOptions = {
  uri: string;
  /** Empty, or ends with "/". */
  prefix: string;
  http: HttpClient;
  budget: RetryBudget;
  requests: S3Requests;
};

export function createS3Store(options: S3StoreOptions): ObjectStore {
  return new S3Store(options);
}

class S3Store implements ObjectStore {
  readonly uri: string;
  readonly writable = true;
  readonly #prefix: string;
  readonly #http: HttpClient;
  readonly #requests: S3Requests;
  readonly #reads: HttpReads;

  constructor({ uri, prefix, http, budget, requests }: S3StoreOptions) {
    this.uri = uri;
    this.#prefix = prefix;
    this.#http = http;
    this.#requests = requests;
    this.#reads = new HttpReads({
      http,
      budget,
      prepare: (method, key, signal) => requests.sign({ method, key: this.#full(key), signal }),
      explain: (text) => requests.explain(text),
      refine: (response, detail) => requests.refine(response, detail),
    });
  }

  async head(key: string, { signal }: { signal?: AbortSignal } = {}): Promise<ObjectInfo | undefined> {
    return this.#reads.head(key, signal);
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
    const info = known ?? (await this.#reads.head(key, signal));
    if (info === undefined) throw new PlatformError("notFound", `no object ${key} in ${this.uri}`);
    return { ...(await this.place(key)), info, etagAskable: true };
  }

  async place(key: string) {
    const { url, headers } = await this.#requests.sign({ method: "GET", key: this.#full(key) });
    return { kind: "http" as const, url: url.href, headers, expiresAt: Date.now() + SIGNATURE_LIFE_MS };
  }

  async put(key: string, body: PutBody, options: PutOptions = {}): Promise<ObjectInfo> {
    const full = this.#full(key);
    return putBody(key, body, options, {
      single: (bytes) => this.#putSingle(key, full, bytes, options),
      inParts: (parts, verify) => this.#putMultipart(key, full, parts, options, verify),
    });
  }

  async *list(options: ListOptions = {}): AsyncGenerator<ObjectInfo> {
    const { prefix = "", startAfter, signal } = options;
    let continuation: string | undefined;
    void loadXmlParser();
    do {
      const { text } = await this.#requests.call({
        method: "GET",
        key: "",
        query: {
          "list-type": "2",
          prefix: this.#prefix + prefix,
          ...(startAfter === undefined ? {} : { "start-after": this.#prefix + startAfter }),
          ...(continuation === undefined ? {} : { "continuation-token": continuation }),
        },
        signal,
      });
      const page = await parseXml(text);
      for (const element of page.children) {
        const info = element.name === "Contents" ? listedObject(element, this.#prefix) : undefined;
        if (info !== undefined) yield info;
      }
      continuation =
        childText(page, "IsTruncated") === "true" ? childText(page, "NextContinuationToken") : undefined;
    } while (continuation !== undefined);
  }

  async delete(key: string, options: { ifMatch?: string; signal?: AbortSignal } = {}): Promise<void> {
    await this.#requests
      .call({
        method: "DELETE",
        key: this.#full(key),
        headers: options.ifMatch === undefined ? {} : { "if-match": `"${options.ifMatch}"` },
        signal: options.signal,
      })
      .catch((error: PlatformError) => {
        if (error.code !== "notFound") throw error;
        if (options.ifMatch !== undefined) throw goneMeanwhile(key, error);
      });
  }

  async close(): Promise<void> {
    this.#http.close();
  }

  #full(key: string): string {
    checkKey(key);
    return this.#prefix + key;
  }

  async #putSingle(key: string, full: string, bytes: Uint8Array, options: PutOptions): Promise<ObjectInfo> {
    const token = randomUUID();
    const headers = writeHeaders(options, token);
    const { etag, date } = await this.#requests
      .call({ method: "PUT", key: full, headers, body: bytes, signal: options.signal }, (error, attempt) =>
        attempt > 1 && error.code === "preconditionFailed"
          ? this.#ownWrite(full, token)
          : Promise.resolve(undefined),
      )
      .catch((error: PlatformError) => {
        throw options.ifMatch !== undefined && error.code === "notFound" ? goneMeanwhile(key, error) : error;
      });
    return { key, size: bytes.byteLength, etag: etag ?? "", modifiedAt: date };
  }

  async #putMultipart(
    key: string,
    full: string,
    parts: AsyncIterable<Uint8Array>,
    options: PutOptions,
    verify: () => void,
  ): Promise<ObjectInfo> {
    const { signal } = options;
    const token = randomUUID();
    const { text } = await this.#requests.call({
      method: "POST",
      key: full,
      query: { uploads: "" },
      headers: creationHeaders(options, token),
      signal,
    });
    const uploadId = childText(await parseXml(text), "UploadId");
    if (uploadId === undefined) throw new PlatformError("corrupt", `PUT ${key}: no upload ID in the answer`);
    try {
      const etags: string[] = [];
      const size = await uploadParts(parts, signal, async (index, body, signal) => {
        const query = { partNumber: String(index + 1), uploadId };
        const { etag } = await this.#requests.call({ method: "PUT", key: full, query, body, signal });
        if (etag === undefined)
          throw new PlatformError("corrupt", `PUT ${full}: a part's answer has no ETag`);
        etags[index] = etag;
      });
      verify();
      const { etag, date } = await this.#complete(full, uploadId, etags, token, options);
      return { key, size, etag, modifiedAt: date };
    } catch (error) {
      // Best effort: the bucket's lifecycle rule takes what an outage leaves behind.
      await this.#requests.call({ method: "DELETE", key: full, query: { uploadId } }).catch(() => undefined);
      throw (error as PlatformError).code === "notFound" && options.ifMatch !== undefined
        ? goneMeanwhile(key, error)
        : error;
    }
  }

  async #complete(
    full: string,
    uploadId: string,
    etags: string[],
    token: string,
    options: PutOptions,
  ): Promise<{ etag: string; date: number }> {
    const list = etags.map(
      (etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${escapeXml(`"${etag}"`)}</ETag></Part>`,
    );
    const answer = await this.#requests.call(
      {
        method: "POST",
        key: full,
        query: { uploadId },
        headers: { ...conditionHeaders(options), "content-type": "application/xml" },
        body: Buffer.from(`<CompleteMultipartUpload>${list.join("")}</CompleteMultipartUpload>`),
        idleTimeoutMs: COMPLETE_TIMEOUT_MS,
        signal: options.signal,
      },
      // A repeated completion finds the upload gone, or its own object in the way.
      (error, attempt) =>
        attempt > 1 && (error.code === "notFound" || error.code === "preconditionFailed")
          ? this.#ownWrite(full, token)
          : Promise.resolve(undefined),
    );
    if (answer.text === "") return { etag: answer.etag ?? "", date: answer.date };
    const document = await parseXml(answer.text);
    // S3 sends the status before the work is done, so a failure may come inside a 200.
    if (document.name === "Error")
      throw new PlatformError("unavailable", `PUT ${full}: ${describe(document)}`);
    return { etag: childText(document, "ETag")?.replace(/^"|"$/g, "") ?? "", date: answer.date };
  }

  /** The object's ETag when it carries our token, i.e. our earlier write succeeded after all. */
  async #ownWrite(full: string, token: string): Promise<string | undefined> {
    const response = await this.#http.send({
      method: "HEAD",
      ...(await this.#requests.sign({ method: "HEAD", key: full })),
    });
    response.body.resume();
    if (response.status !== 200 || response.header(WRITE_TOKEN) !== token) return undefined;
    return response.header("etag")?.replace(/^"|"$/g, "");
  }
}

function writeHeaders(options: PutOptions, token: string): Record<string, string> {
  return { ...creationHeaders(options, token), ...conditionHeaders(options) };
}

function creationHeaders(options: PutOptions, token: string): Record<string, string> {
  return {
    "content-type": options.contentType ?? "application/octet-stream",
    [WRITE_TOKEN]: token,
  };
}

function conditionHeaders(options: PutOptions): Record<string, string> {
  return {
    ...(options.ifNoneMatch === undefined ? {} : { "if-none-match": options.ifNoneMatch }),
    ...(options.ifMatch === undefined ? {} : { "if-match": `"${options.ifMatch}"` }),
  };
}

/** A listed object; undefined for names that this platform does not use as keys (folder markers, for instance). */
function listedObject(element: XmlElement, prefix: string): ObjectInfo | undefined {
  const key = childText(element, "Key")?.slice(prefix.length) ?? "";
  try {
    checkKey(key);
  } catch {
    return undefined;
  }
  return {
    key,
    size: Number(childText(element, "Size") ?? Number.NaN),
    etag: (childText(element, "ETag") ?? "").replace(/^"|"$/g, ""),
    modifiedAt: Date.parse(childText(element, "LastModified") ?? "") || 0,
  };
}
