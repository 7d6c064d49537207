// Where requests of one deployment wait for a replica: a bounded queue for new requests, and one for broken streams, which
// go first because their clients hold half an answer.
//
//   W1. Whoever waits gets a replica, an error that says why not, or is withdrawn; nobody waits beyond its deadline (I1).
//   W2. Both queues are bounded (I10).
import { PlatformError } from "@pilotlight/errors";
import { AdmissionQueue, type Ticket } from "@pilotlight/policy";
import type { Replica } from "./replica.ts";

export type Entry = {
  /** `continuing`: a stream whose replica went away. */
  kind: "fresh" | "continuing";
  /** When the request stops waiting, epoch ms. */
  deadlineAt: number;
  /** Replicas that failed this request already; not asked again while there are others. */
  tried: ReadonlySet<string> | null;
  /** Which replicas can take it; null: any. */
  fits: ((replica: Replica) => boolean) | null;
};

export type Waiting = { replica: Promise<Replica>; cancel: () => void };

export type RoomLimits = {
  queueLengthMax: number;
  queueWaitMsMax: number;
  continuationsMax: number;
  continuationWaitMsMax: number;
};

type Waiter = {
  readonly entry: Entry;
  readonly grant: (replica: Replica) => void;
  readonly refuse: (error: PlatformError) => void;
  ticket: Ticket<Waiter> | null;
};
type Queue = AdmissionQueue<Waiter>;

const RETRY_AFTER = { retryAfterMsMin: 1_000, retryAfterMsMax: 60_000 } as const;

export class WaitingRoom {
  readonly #queues: Record<Entry["kind"], Queue | null> = { fresh: null, continuing: null };
  readonly #whyNone: () => string;
  #limits: RoomLimits;
  #timer: NodeJS.Timeout | null = null;

  /** `whyNone` says for people why nobody is served at the moment. */
  constructor(limits: RoomLimits, whyNone: () => string) {
    this.#limits = limits;
    this.#whyNone = whyNone;
  }

  set limits(limits: RoomLimits) {
    this.#limits = limits;
  }

  get length(): number {
    return (this.#queues.fresh?.length ?? 0) + (this.#queues.continuing?.length ?? 0);
  }

  /** Whether a new request of this kind has to stand behind others. */
  isAhead(kind: Entry["kind"]): boolean {
    const continuing = this.#queues.continuing?.length ?? 0;
    return kind === "continuing" ? continuing > 0 : this.length > 0;
  }

  /** Queues a request. Throws `resourceExhausted` when it cannot be served in time, with an honest time to come back. */
  wait(entry: Entry): Waiting {
    const settled = Promise.withResolvers<Replica>();
    const waiter: Waiter = { entry, grant: settled.resolve, refuse: settled.reject, ticket: null };
    const queue = this.#queueOf(entry.kind);
    this.#offer(queue, waiter);
    this.#arm();
    const cancel = () => {
      if (waiter.ticket === null || !queue.cancel(waiter.ticket)) return;
      waiter.refuse(new PlatformError("cancelled", "the client went away"));
    };
    return { replica: settled.promise, cancel };
  }

  /** Hands out replicas, oldest request first, as long as `hasRoom`. Whoever gets none by `pick` goes on waiting. */
  serve(hasRoom: () => boolean, pick: (entry: Entry) => Replica | null): void {
    for (const queue of [this.#queues.continuing, this.#queues.fresh]) {
      for (let left = queue?.length ?? 0; queue !== null && left > 0 && hasRoom(); left--) {
        const ticket = queue.take(Date.now());
        if (ticket === null) break;
        const replica = pick(ticket.item.entry);
        if (replica !== null) ticket.item.grant(replica);
        else this.#waitOn(queue, ticket);
      }
    }
    this.#arm();
  }

  /** Nobody will be served any more. */
  close(error: PlatformError): void {
    for (const queue of [this.#queues.continuing, this.#queues.fresh]) {
      for (const ticket of queue?.expire(Number.POSITIVE_INFINITY) ?? []) ticket.item.refuse(error);
    }
    this.#arm();
  }

  /**
   * A queue lives for one busy period: how fast it moved an hour ago says nothing about now, and limits of a new version
   * apply from the next one.
   */
  #queueOf(kind: Entry["kind"]): Queue {
    const existing = this.#queues[kind];
    if (existing !== null && existing.length > 0) return existing;
    const limits = this.#limits;
    const queue: Queue = new AdmissionQueue(
      kind === "fresh"
        ? { queueLengthMax: limits.queueLengthMax, queueWaitMsMax: limits.queueWaitMsMax, ...RETRY_AFTER }
        : {
            queueLengthMax: limits.continuationsMax,
            queueWaitMsMax: limits.continuationWaitMsMax,
            ...RETRY_AFTER,
          },
    );
    this.#queues[kind] = queue;
    return queue;
  }

  #offer(queue: Queue, waiter: Waiter): void {
    const offer = queue.offer(Date.now(), waiter, { deadlineAt: waiter.entry.deadlineAt, readyAt: null });
    if (offer.kind === "queued") {
      waiter.ticket = offer.ticket;
      return;
    }
    const { retryAfterMs } = offer;
    const why =
      offer.why === "queueFull"
        ? `${queue.length} requests are waiting already, which is the limit`
        : "the queue moves too slowly to serve this request in time";
    throw new PlatformError("resourceExhausted", `${why}; ${this.#whyNone()}`, {
      retryAfterMs,
      remedy: `Try again in ${Math.ceil(retryAfterMs / 1000)} s.`,
    });
  }

  /** The free replicas do not fit this one: it goes to the back, with its deadline. */
  #waitOn(queue: Queue, ticket: Ticket<Waiter>): void {
    try {
      this.#offer(queue, ticket.item);
    } catch (error) {
      ticket.item.refuse(error as PlatformError);
    }
  }

  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const deadlines = [this.#queues.fresh, this.#queues.continuing].map(
      (queue) => queue?.nextDeadlineAt ?? null,
    );
    const next = Math.min(...deadlines.map((at) => at ?? Number.POSITIVE_INFINITY));
    if (Number.isFinite(next)) this.#timer = setTimeout(() => this.#expire(), Math.max(1, next - Date.now()));
  }

  #expire(): void {
    for (const queue of [this.#queues.continuing, this.#queues.fresh]) {
      for (const { item, queuedAt } of queue?.expire(Date.now()) ?? []) {
        const waited = ((Date.now() - queuedAt) / 1000).toFixed(1);
        item.refuse(
          new PlatformError("unavailable", `waited ${waited} s for a replica: ${this.#whyNone()}`, {
            retryAfterMs: 5_000,
            remedy: "Try again in a moment.",
          }),
        );
      }
    }
    this.#arm();
  }
}
