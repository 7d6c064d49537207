// A resumable upload: parts go to a session one after the other; when an answer was lost the session is asked how far it came and goes
// on from there. After https://cloud.google.com/storage/docs/performing-resumable-uploads
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import type { Call, GoogleRequests } from "./google-requests.ts";

const SESSION_ATTEMPTS_MAX = 5;

/** Where a part belongs. */
type Place = { offset: number; last: boolean; signal: AbortSignal | undefined };

/** Uploads under the session that `begin` opens, or nothing. Gives the last part's answer. `verify` is called before that part. */
export async function uploadInSession(
  requests: GoogleRequests,
  begin: Call,
  parts: AsyncIterable<Uint8Array>,
  verify: () => void,
): Promise<string> {
  const { header } = await requests.call(begin);
  const session = URL.parse(header("location") ?? "");
  if (session === null)
    throw new PlatformError("corrupt", `${begin.path}: the answer names no upload session`);
  try {
    return await new Session(requests, session).upload(parts, verify, begin.signal);
  } catch (error) {
    // Best effort: sessions that nobody ends are forgotten after a week.
    await requests.send(session, "DELETE", {}, undefined, undefined).catch(() => undefined);
    throw error;
  }
}

class Session {
  readonly #requests: GoogleRequests;
  readonly #url: URL;

  constructor(requests: GoogleRequests, url: URL) {
    this.#requests = requests;
    this.#url = url;
  }

  async upload(
    parts: AsyncIterable<Uint8Array>,
    verify: () => void,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    let offset = 0;
    let held: Uint8Array | undefined;
    for await (const part of parts) {
      if (held !== undefined) {
        await this.#sendPart(held, { offset, last: false, signal });
        offset += held.byteLength;
      }
      held = part;
    }
    verify();
    return this.#sendPart(held ?? new Uint8Array(), { offset, last: true, signal });
  }

  /**
   * One part, sent again from where the session stands when its answer was lost. Returns the last part's answer.
   */
  async #sendPart(part: Uint8Array, place: Place): Promise<string> {
    const { offset, last, signal } = place;
    const end = offset + part.byteLength;
    const total = last ? String(end) : "*";
    let at = offset;
    for (let attempt = 1; ; attempt++) {
      try {
        if (attempt > 1) {
          const range = { "content-range": `bytes */${total}` };
          const state = await this.#requests.send(this.#url, "PUT", range, new Uint8Array(), signal);
          if (state.status !== 308) return state.text;
          at = receivedEnd(state.range);
        }
        if (at < offset || at > end) {
          throw new PlatformError("corrupt", "the upload session lost bytes that it had");
        }
        if (at < end || last) {
          const span = at === end ? "*" : `${at}-${end - 1}`;
          const headers = { "content-range": `bytes ${span}/${total}` };
          const answer = await this.#requests.send(
            this.#url,
            "PUT",
            headers,
            part.subarray(at - offset),
            signal,
          );
          if (answer.status !== 308) return answer.text;
          at = receivedEnd(answer.range);
        }
        if (at === end && !last) return "";
        throw new PlatformError("unavailable", "the upload session took a part of what was sent");
      } catch (thrown) {
        const error = toPlatformError(thrown);
        const again = error.retryable && attempt < SESSION_ATTEMPTS_MAX && this.#requests.mayTryAgain();
        if (!again || signal?.aborted === true) throw thrown;
      }
    }
  }
}

/** "bytes=0-N" as N + 1; 0 without it. */
function receivedEnd(range: string | undefined): number {
  const last = /^bytes=0-(\d{1,15})$/.exec(range ?? "")?.[1];
  return last === undefined ? 0 : Number(last) + 1;
}
