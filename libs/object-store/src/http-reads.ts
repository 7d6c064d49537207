// Reading objects over HTTP, the same for S3, plain web servers and hubs: HEAD, GET with Range and If-Match, bodies
// that resume where a connection broke. What differs between them (address, signature, token) is the `prepare`
// that each adapter gives. Nothing here trusts the far side: a server that ignores If-Match or Range is found out by
// its answer.
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { type HttpClient, type HttpResponse, readBody, readErrorText, statusError } from "./http.ts";
import { GET_BYTES_MAX_DEFAULT, throwIfAborted, tooLarge } from "./limits.ts";
import { checkRange, parseContentRange, rangeHeader } from "./ranges.ts";
import { REDIRECTS_MAX, redirectTarget, tooManyRedirects } from "./redirects.ts";
import type { RetryBudget } from "./retry-budget.ts";
import type { ByteRange, ObjectBytes, ObjectInfo, ObjectStream, ReadOptions } from "./store.ts";

/** Where a key is and which headers open it; may resolve redirects or sign. */
type Prepare = (
  method: "GET" | "HEAD",
  key: string,
  signal: AbortSignal | undefined,
  /** The ETag that the object must have, for adapters that ask for it in a way of their own (`etagOf`). */
  ifMatch: string | undefined,
) => Promise<Prepared>;

export type Prepared = {
  url: URL;
  headers: Record<string, string>;
  /** What is known of the object from a better source than the server that sends its bytes. */
  info?: ObjectInfo;
};

export type HttpReadsOptions = {
  http: HttpClient;
  budget: RetryBudget;
  prepare: Prepare;
  /** What takes the place of the ETag, from an answer's headers; `prepare` then asks for it. Default: the ETag. */
  etagOf?: (response: HttpResponse) => string | undefined;
  /** Follow redirects; elsewhere than where it began nobody gets the authorization. Default: a redirect is an error. */
  followRedirects?: boolean;
  /** What the far side's error body says, in one line without secrets. */
  explain: (text: string) => Promise<string> | string;
  /** A better error than the status alone gives, where the adapter knows one. */
  refine?: (response: HttpResponse, detail: string) => PlatformError | undefined;
};

/** An answer and who gave it, with what it was asked. */
type Answered = { response: HttpResponse; url: URL; headers: Record<string, string> };

type Opened = { info: ObjectInfo; offset: number; length: number; response: HttpResponse };

export class HttpReads {
  readonly #options: HttpReadsOptions;

  constructor(options: HttpReadsOptions) {
    this.#options = options;
  }

  async head(key: string, signal: AbortSignal | undefined): Promise<ObjectInfo | undefined> {
    return (await this.find(key, signal))?.info;
  }

  /** An object, and where it is after all redirects. */
  async find(
    key: string,
    signal: AbortSignal | undefined,
  ): Promise<(Prepared & { info: ObjectInfo; redirected: boolean }) | undefined> {
    const { prepare, budget } = this.#options;
    return budget.run(async () => {
      const asked = await prepare("HEAD", key, signal, undefined);
      const { response, url, headers } = await this.#send("HEAD", key, asked, signal);
      response.body.resume();
      if (response.status === 404) return undefined;
      if (response.status !== 200) throw await this.error(response, `HEAD ${key}`);
      const info = this.#infoOf(key, response, contentLength(response, key));
      return { info, url, headers, redirected: url !== asked.url };
    }, signal);
  }

  async get(key: string, options: ReadOptions & { bytesMax?: number } = {}): Promise<ObjectBytes> {
    const { bytesMax = GET_BYTES_MAX_DEFAULT } = options;
    checkRange(options.range);
    return this.#options.budget.run(async () => {
      const { info, offset, length, response } = await this.#open(
        key,
        options.range,
        options.ifMatch,
        options.signal,
      );
      if (length > bytesMax) {
        response.body.destroy();
        throw tooLarge(key, length, bytesMax);
      }
      const bytes = await readBody(response.body, length);
      if (bytes.byteLength !== length) throw cutShort(key, bytes.byteLength, length);
      return { info, offset, bytes };
    }, options.signal);
  }

  async stream(key: string, options: ReadOptions = {}): Promise<ObjectStream> {
    const { range, ifMatch, signal } = options;
    checkRange(range);
    const opened = await this.#options.budget.run(() => this.#open(key, range, ifMatch, signal), signal);
    const { info, offset, length } = opened;
    return { info, offset, length, body: this.#resuming(key, opened, signal) };
  }

  /** Turns an unsuccessful answer into an error and frees its connection. */
  async error(response: HttpResponse, what: string): Promise<PlatformError> {
    const detail = await this.#options.explain(await readErrorText(response));
    return this.#options.refine?.(response, detail) ?? statusError(response, what, detail);
  }

  async *#resuming(key: string, first: Opened, signal: AbortSignal | undefined): AsyncGenerator<Uint8Array> {
    const end = first.offset + first.length;
    let position = first.offset;
    let opened = first;
    while (true) {
      try {
        for await (const chunk of opened.response.body as AsyncIterable<Buffer>) {
          position += chunk.byteLength;
          if (position > end) throw new PlatformError("corrupt", `${key}: more bytes than announced`);
          yield chunk;
        }
        if (position === end) return;
        throw cutShort(key, position - first.offset, first.length);
      } catch (thrown) {
        throwIfAborted(signal);
        const error = toPlatformError(thrown);
        const { budget } = this.#options;
        if (!error.retryable || !budget.take()) throw error;
        // The same ETag or none: a replaced object is an error, never a mixture.
        const rest = { offset: position, length: end - position };
        opened = await budget.run(() => this.#open(key, rest, first.info.etag, signal), signal);
      }
    }
  }

  async #open(
    key: string,
    range: ByteRange | undefined,
    ifMatch: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Opened> {
    const { prepare, etagOf } = this.#options;
    const { url, headers, info } = await prepare("GET", key, signal, ifMatch);
    const askMatch = ifMatch !== undefined && info === undefined && etagOf === undefined && isStrong(ifMatch);
    const asked = {
      ...headers,
      ...(range === undefined ? {} : { range: rangeHeader(range) }),
      ...(askMatch ? { "if-match": `"${ifMatch}"` } : {}),
    };
    const { response } = await this.#send("GET", key, { url, headers: asked }, signal);
    try {
      return await this.#checkAnswer(key, range, ifMatch, info, response);
    } catch (error) {
      response.body.destroy();
      throw error;
    }
  }

  async #send(
    method: "GET" | "HEAD",
    key: string,
    { url, headers }: Prepared,
    signal: AbortSignal | undefined,
  ): Promise<Answered> {
    const { http, followRedirects = false } = this.#options;
    const { authorization: _, ...open } = headers;
    let at = { url, headers };
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      const response = await http.send({ method, ...at, signal });
      const target = followRedirects ? redirectTarget(response, at.url) : undefined;
      if (target === undefined) return { response, ...at };
      response.body.destroy();
      // Not even on the way back: whoever redirects there chose what is asked for.
      at = { url: target, headers: target.origin === at.url.origin ? at.headers : open };
    }
    throw tooManyRedirects(`${method} ${key}`);
  }

  async #checkAnswer(
    key: string,
    range: ByteRange | undefined,
    ifMatch: string | undefined,
    known: ObjectInfo | undefined,
    response: HttpResponse,
  ): Promise<Opened> {
    if (response.status !== 200 && response.status !== 206) throw await this.error(response, `GET ${key}`);
    const length = contentLength(response, key);
    if (response.status === 206 && length === 0 && range !== undefined) {
      // Some servers answer a range that begins at the end with none of its bytes.
      throw new PlatformError("invalidArgument", `GET ${key}: the range starts at or past the end`, {
        field: "range",
      });
    }
    const part =
      response.status === 206
        ? parseContentRange(response.header("content-range"))
        : { offset: 0, length, size: length };
    if (part === undefined || part.length !== length) {
      throw new PlatformError("corrupt", `GET ${key}: the answer's range and length do not agree`);
    }
    if (range !== undefined && !isAnswerTo(range, part)) {
      throw new PlatformError(
        "unsupported",
        `GET ${key}: the server answered another range than was asked for`,
        {
          remedy: "Use a server that supports HTTP range requests.",
        },
      );
    }
    const info = known ?? this.#infoOf(key, response, part.size);
    if (info.size !== part.size) {
      throw new PlatformError("corrupt", `${key} has ${part.size} bytes where ${info.size} were announced`);
    }
    if (ifMatch !== undefined && info.etag !== ifMatch) {
      throw new PlatformError(
        "preconditionFailed",
        `${key} was replaced: its ETag is ${info.etag}, not ${ifMatch}`,
        {
          remedy: "Read its metadata again and start over.",
        },
      );
    }
    return { info, offset: part.offset, length, response };
  }

  #infoOf(key: string, response: HttpResponse, size: number): ObjectInfo {
    const info = infoOf(key, response, size);
    return { ...info, etag: this.#options.etagOf?.(response) ?? info.etag };
  }
}

function isAnswerTo(range: ByteRange, part: { offset: number; length: number; size: number }): boolean {
  if ("suffix" in range)
    return part.length === Math.min(range.suffix, part.size) && part.offset + part.length === part.size;
  return (
    part.offset === range.offset &&
    part.length === Math.min(range.length ?? part.size, part.size - range.offset)
  );
}

/**
 * The ETag, unquoted. A weak one (or none) cannot be asked for with If-Match, but still tells when an object changed,
 * so it is kept in a form that the reader compares itself.
 */
function infoOf(key: string, response: HttpResponse, size: number): ObjectInfo {
  const modified = response.header("last-modified");
  const modifiedAt = Date.parse(modified ?? "");
  const raw = response.header("etag");
  const strong = /^"([^"]*)"$/.exec(raw ?? "");
  return {
    key,
    size,
    etag: strong?.[1] ?? raw ?? `${WEAK}modified-${modified ?? "unknown"}-${size}`,
    modifiedAt: Number.isNaN(modifiedAt) ? 0 : modifiedAt,
  };
}

const WEAK = "W/";

/** True for an ETag that If-Match can be asked with. */
export function isStrong(etag: string): boolean {
  return !etag.startsWith(WEAK);
}

function contentLength(response: HttpResponse, key: string): number {
  const length = response.header("content-length");
  if (length === undefined || !/^\d{1,15}$/.test(length)) {
    throw new PlatformError("unsupported", `${key}: the server does not say how long the object is`, {
      remedy: "Use a server that sends Content-Length.",
    });
  }
  return Number(length);
}

function cutShort(key: string, got: number, expected: number): PlatformError {
  return new PlatformError("unavailable", `${key}: the connection ended after ${got} of ${expected} bytes`);
}
