// Requests to Google's JSON API: authorised, tried again, their failures explained; and those to an upload session, which has an
// address of its own and answers 308 while it wants more.
import { PlatformError } from "@pilotlight/errors";
import type { TokenSource } from "./access-token.ts";
import { type HttpClient, type HttpResponse, readBody, readErrorText, statusError } from "./http.ts";
import type { RetryBudget } from "./retry-budget.ts";

const JSON_BYTES_MAX = 16 * 1024 * 1024;
/** Without a token nothing expires, but addresses are looked up again now and then all the same. */
const ANONYMOUS_LIFE_MS = 60 * 60_000;

export type GoogleRequestOptions = {
  /** Without a trailing slash. */
  endpoint: string;
  /** Undefined: no token. */
  token: TokenSource | undefined;
  http: HttpClient;
  budget: RetryBudget;
};

export type Query = Record<string, string>;
export type Call = {
  method: "GET" | "POST" | "DELETE";
  path: string;
  query?: Query;
  headers?: Record<string, string>;
  body?: Uint8Array;
  signal?: AbortSignal | undefined;
};
export type Answer = { text: string; header: HttpResponse["header"] };

/** What an upload session says. */
export type SessionAnswer = { status: number; text: string; range: string | undefined };

export class GoogleRequests {
  readonly #options: GoogleRequestOptions;

  constructor(options: GoogleRequestOptions) {
    this.#options = options;
  }

  async authorization(): Promise<{ headers: Record<string, string>; expiresAt: number }> {
    const { token: source } = this.#options;
    if (source === undefined) return { headers: {}, expiresAt: Date.now() + ANONYMOUS_LIFE_MS };
    const { token, expiresAt } = await source();
    return { headers: { authorization: `Bearer ${token}` }, expiresAt };
  }

  url(path: string, query: Query): URL {
    const url = new URL(`${this.#options.endpoint}${path}`);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    return url;
  }

  /** Sends with retries. `onFailure` may turn the failure of a repeated attempt into its result. */
  async call(
    call: Call,
    onFailure?: (error: PlatformError, attempt: number) => Promise<Answer | undefined>,
  ): Promise<Answer> {
    const { budget, http } = this.#options;
    return budget.run(async (attempt) => {
      const { headers } = await this.authorization();
      const response = await http.send({
        method: call.method,
        url: this.url(call.path, call.query ?? {}),
        headers: { ...headers, ...call.headers },
        ...(call.body === undefined ? {} : { body: call.body }),
        signal: call.signal,
      });
      if (response.status >= 200 && response.status < 300) {
        const text = (await readBody(response.body, JSON_BYTES_MAX)).toString("utf8");
        return { text, header: response.header };
      }
      const error = await errorOf(response, `${call.method} ${call.path}`);
      const answer = await onFailure?.(error, attempt);
      if (answer === undefined) throw error;
      return answer;
    }, call.signal);
  }

  /** A request to a session. 308 is an answer: it wants more. */
  async send(
    url: URL,
    method: "PUT" | "DELETE",
    headers: Record<string, string>,
    body: Uint8Array | undefined,
    signal: AbortSignal | undefined,
  ): Promise<SessionAnswer> {
    const response = await this.#options.http.send({
      method,
      url,
      headers: { ...(await this.authorization()).headers, ...headers },
      ...(body === undefined ? {} : { body }),
      signal,
    });
    const { status } = response;
    if (status !== 308 && (status < 200 || status > 299)) throw await errorOf(response, "upload session");
    const text = (await readBody(response.body, JSON_BYTES_MAX)).toString("utf8");
    return { status, text, range: response.header("range") };
  }

  /** Takes one more attempt from the store's budget; false: there is none left. */
  mayTryAgain(): boolean {
    return this.#options.budget.take();
  }
}

/** Throws `corrupt` for what is no JSON. */
export function parseJson<T>(text: string): T {
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
export function explain(text: string): string {
  try {
    const { error } = JSON.parse(text) as { error?: { message?: unknown } };
    return typeof error?.message === "string" ? error.message.replace(/\s+/g, " ") : "";
  } catch {
    return "";
  }
}
