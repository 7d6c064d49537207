// SearchLogs: what is there, then, with `follow`, what comes.
import type { LogLine, SearchLogsRequest } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { CallContext } from "@pilotlight/service";
import type { Admission } from "../admission.ts";
import { matches, type Query, queryOf } from "../domain/query.ts";
import type { Intake } from "../intake.ts";
import { type SearchPorts, search } from "../search.ts";

export type SearchDoor = SearchPorts & {
  intake: Intake;
  searches: Admission;
  followers: Admission;
  searchTimeoutMs: number;
  /** Lines that may wait for one slow reader. */
  followQueueMax: number;
};

const LINES_PER_MESSAGE = 500;

/** Answers one call. Throws `invalidArgument`, `resourceExhausted` (too many at once, reader too slow), `deadlineExceeded`. */
export async function* searchLogs(
  request: SearchLogsRequest,
  call: CallContext,
  door: SearchDoor,
): AsyncGenerator<{ lines: LogLine[] }> {
  const query = queryOf(request);
  if (!request.follow) {
    yield* pagesOf(await door.searches.run(() => searchInTime(query, call.signal, door)));
    return;
  }
  const leave = door.followers.enter();
  const waiting: LogLine[] = [];
  let overflow = false;
  let wake: () => void = () => {};
  const unfollow = door.intake.follow((lines) => {
    for (const line of lines) if (matches(query, line)) waiting.push(line);
    if (waiting.length > door.followQueueMax) overflow = true;
    wake();
  });
  call.signal.addEventListener("abort", () => wake(), { once: true });
  try {
    const before = await door.searches.run(() =>
      searchInTime(query, call.signal, door, () => {
        waiting.length = 0; // the search has these
        overflow = false;
      }),
    );
    yield* pagesOf(before);
    while (!call.signal.aborted) {
      if (overflow)
        throw new PlatformError("resourceExhausted", "more lines come than are read", {
          remedy: "Narrow the search, or ask again from the last line's time.",
        });
      if (waiting.length > 0) yield* pagesOf(waiting.splice(0));
      else
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
    }
  } finally {
    unfollow();
    leave();
  }
}

async function searchInTime(
  query: Query,
  signal: AbortSignal,
  door: SearchDoor,
  onPlan?: () => void,
): Promise<LogLine[]> {
  const timeout = AbortSignal.timeout(door.searchTimeoutMs);
  try {
    return await search(query, door, AbortSignal.any([signal, timeout]), onPlan);
  } catch (error) {
    if (!timeout.aborted) throw error;
    throw new PlatformError("deadlineExceeded", `the search took longer than ${door.searchTimeoutMs} ms`, {
      remedy: "Narrow it by time (since, until), request or application.",
      cause: error,
    });
  }
}

function* pagesOf(lines: readonly LogLine[]): Generator<{ lines: LogLine[] }> {
  for (let i = 0; i < lines.length; i += LINES_PER_MESSAGE)
    yield { lines: lines.slice(i, i + LINES_PER_MESSAGE) };
}
