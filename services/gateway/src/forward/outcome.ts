// How one attempt at one replica ended, as far as the loop over attempts has to know.
import type { OutgoingHttpHeaders } from "node:http";
import type { PlatformError } from "@pilotlight/errors";

/** A whole answer of a replica. */
export type WholeAnswer = { status: number; headers: OutgoingHttpHeaders; body: Buffer };

export type Outcome =
  /** The client has its complete answer (whatever its status). */
  | { kind: "done" }
  /** The client went away. */
  | { kind: "clientGone" }
  /** The replica takes no new requests; nothing was lost. */
  | { kind: "draining" }
  /** The replica answered that it cannot; another one may. `answer` is what it said. */
  | { kind: "refused"; error: PlatformError; answer: WholeAnswer }
  /** The replica is alive but its answer is worth nothing: an error in its stream, or nonsense. Others may fare better. */
  | { kind: "failed"; error: PlatformError }
  /** The replica did not answer, or cut its answer. */
  | { kind: "broken"; error: PlatformError }
  /** A part was sent that cannot be taken back nor continued. */
  | { kind: "lost"; error: PlatformError };
