// Signed requests to one bucket: address, signature, errors as S3 words them. No operation's meaning.
import { PlatformError } from "@pilotlight/errors";
import type { CredentialSource } from "./credentials.ts";
import {
  type HttpClient,
  type HttpRequest,
  type HttpResponse,
  readBody,
  readErrorText,
  statusError,
} from "./http.ts";
import type { RetryBudget } from "./retry-budget.ts";
import { EMPTY_SHA256, encodePath, sha256Hex, signV4 } from "./sigv4.ts";
import { childText, parseXml, type XmlElement } from "./xml.ts";

/** A page of 1000 keys of 1 KB, with room. */
const XML_BYTES_MAX = 4 * 1024 * 1024;

export type S3Target = {
  bucket: string;
  /** Undefined: AWS, by region. */
  endpoint: string | undefined;
  region: string;
  pathStyle: boolean;
};

export type S3Call = {
  method: HttpRequest["method"];
  /** Full key within the bucket; empty for calls to the bucket itself. */
  key: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal | undefined;
  /** For calls that are silent for long while the far side works. */
  idleTimeoutMs?: number;
};

export class S3Requests {
  readonly #target: S3Target;
  readonly #credentials: CredentialSource;
  readonly #http: HttpClient;
  readonly #budget: RetryBudget;

  constructor(target: S3Target, credentials: CredentialSource, http: HttpClient, budget: RetryBudget) {
    this.#target = target;
    this.#credentials = credentials;
    this.#http = http;
    this.#budget = budget;
  }

  /** URL and signed headers. Range and If-Match may be added: they are not part of the signature. */
  async sign(call: S3Call): Promise<{ url: URL; headers: Record<string, string> }> {
    const url = this.#url(call.key);
    for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.append(name, value);
    const headers = signV4({
      method: call.method,
      url,
      headers: call.headers ?? {},
      payloadHash: call.body === undefined ? EMPTY_SHA256 : sha256Hex(call.body),
      credentials: await this.#credentials(),
      region: this.#target.region,
      now: Date.now(),
    });
    return { url, headers };
  }

  /**
   * Sends with retries and returns the successful answer, its body read. `onFailure` may turn a failed answer of a
   * repeated attempt into a result (a write whose first answer was lost).
   */
  async call(
    call: S3Call,
    onFailure?: (error: PlatformError, attempt: number) => Promise<string | undefined>,
  ): Promise<{ etag: string | undefined; text: string; date: number }> {
    return this.#budget.run(async (attempt) => {
      const response = await this.#http.send({
        method: call.method,
        ...(await this.sign(call)),
        ...(call.body === undefined ? {} : { body: call.body }),
        ...(call.idleTimeoutMs === undefined ? {} : { idleTimeoutMs: call.idleTimeoutMs }),
        signal: call.signal,
      });
      if (response.status >= 200 && response.status < 300) {
        const text = (await readBody(response.body, XML_BYTES_MAX)).toString("utf8");
        const etag = response.header("etag")?.replace(/^"|"$/g, "");
        return { etag, text, date: Date.parse(response.header("date") ?? "") || Date.now() };
      }
      const error = await this.error(response, `${call.method} ${call.key || this.#target.bucket}`);
      const etag = await onFailure?.(error, attempt);
      if (etag === undefined) throw error;
      return { etag, text: "", date: Date.now() };
    }, call.signal);
  }

  /** What an error document says, in one line. */
  async explain(text: string): Promise<string> {
    if (!text.includes("<Error")) return "";
    const document = await parseXml(text).catch(() => undefined);
    return document === undefined ? "" : describe(document);
  }

  /** Errors whose remedy S3 itself names. */
  refine(response: HttpResponse, detail: string): PlatformError | undefined {
    const region = response.header("x-amz-bucket-region");
    if (
      response.status === 301 ||
      response.status === 307 ||
      detail.startsWith("AuthorizationHeaderMalformed")
    ) {
      return new PlatformError(
        "invalidArgument",
        `bucket ${this.#target.bucket} is in another region: ${detail}`,
        {
          field: "uri",
          remedy: region === undefined ? "Set ?region=…" : `Set ?region=${region} in the store's URI.`,
        },
      );
    }
    if (detail.startsWith("RequestTimeTooSkewed")) {
      return new PlatformError("unauthenticated", detail, { remedy: "Set this machine's clock." });
    }
    // AWS answers so when another conditional write of the same key is in progress; the retry then sees its result.
    if (response.status === 409 && detail.startsWith("ConditionalRequestConflict")) {
      return new PlatformError("unavailable", detail);
    }
    if (response.status === 409) return new PlatformError("conflict", detail);
    return undefined;
  }

  /** An unsuccessful answer as an error; its connection is freed. */
  async error(response: HttpResponse, what: string): Promise<PlatformError> {
    const detail = await this.explain(await readErrorText(response));
    return this.refine(response, detail) ?? statusError(response, what, detail);
  }

  #url(key: string): URL {
    const { bucket, endpoint, region, pathStyle } = this.#target;
    const base = new URL(endpoint ?? `https://s3.${region}.amazonaws.com`);
    if (!pathStyle) base.host = `${bucket}.${base.host}`;
    const path = base.pathname.replace(/\/+$/, "");
    base.pathname = `${path}${pathStyle ? `/${bucket}` : ""}/${encodePath(key)}`;
    return base;
  }
}

/** "Code: message". */
export function describe(error: XmlElement): string {
  return `${childText(error, "Code") ?? error.name}: ${childText(error, "Message") ?? ""}`;
}
