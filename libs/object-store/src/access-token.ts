// Access tokens of cloud providers: fetched when needed, kept until shortly before they end, one look-up for all who ask at once.
import { PlatformError } from "@pilotlight/errors";

export type AccessToken = { token: string /** Epoch ms. */; expiresAt: number };
export type TokenSource = () => Promise<AccessToken>;

/** Refresh before the end by this much, so that a request sent now does not expire on its way. */
const REFRESH_BEFORE_MS = 2 * 60_000;
const REQUEST_TIMEOUT_MS = 10_000;
const ANSWER_BYTES_MAX = 64 * 1024;

/** The same token for everybody until it is about to end. A failure is not kept. */
export function cachedToken(fetchToken: TokenSource): TokenSource {
  let cached: AccessToken | undefined;
  let pending: Promise<AccessToken> | undefined;
  return async () => {
    if (cached !== undefined && Date.now() < cached.expiresAt - REFRESH_BEFORE_MS) return cached;
    pending ??= fetchToken()
      .then((token) => {
        cached = token;
        return token;
      })
      .finally(() => {
        pending = undefined;
      });
    return pending;
  };
}

/**
 * Asks an OAuth 2 token endpoint (RFC 6749) or a machine's metadata service. Throws unauthenticated with what it answered, never
 * with what it was asked.
 */
export async function requestToken(
  url: URL,
  request: { form?: Record<string, string>; headers?: Record<string, string> },
): Promise<AccessToken> {
  const { form, headers } = request;
  const failure = (what: string, cause?: unknown): PlatformError =>
    new PlatformError("unauthenticated", `no access token from ${url.host}: ${what}`, {
      cause,
      remedy: "Check the credentials that the environment names, and that this machine may use them.",
    });
  let response: Response;
  try {
    response = await fetch(url, {
      ...(form === undefined ? {} : { method: "POST", body: new URLSearchParams(form) }),
      ...(headers === undefined ? {} : { headers }),
      redirect: "error",
      signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS),
    });
  } catch (cause) {
    throw failure("it cannot be reached", cause);
  }
  const text = (await response.text()).slice(0, ANSWER_BYTES_MAX);
  if (!response.ok) throw failure(`status ${response.status}, ${errorOf(text)}`);
  const { access_token: token, expires_in: seconds } = jsonOf(text);
  if (typeof token !== "string" || token === "") throw failure("the answer holds none");
  const lifeMs = Number(seconds) * 1000;
  return { token, expiresAt: Date.now() + (Number.isFinite(lifeMs) ? lifeMs : 5 * 60_000) };
}

/** RFC 6749's error code; the answer's other parts may repeat what was sent. */
function errorOf(text: string): string {
  const { error } = jsonOf(text);
  return typeof error === "string" && /^[\w.-]{1,64}$/.test(error) ? error : "no reason given";
}

function jsonOf(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
