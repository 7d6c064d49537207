// The bounded queue of one deployment in one gateway. It is state without a clock: the gateway passes `now` in, and
// asks `nextDeadlineAt` when to come back.
//
//   A1. Never more than `queueLengthMax` wait (I10).
//   A2. Whoever cannot be served before the deadline, as far as can be known, is told at once, not after waiting.
//   A3. Retry-After is the time after which the request would have a chance, from the measured rate at which the queue
//       moves; it is not a constant, unless nothing has been measured yet.
import type { Instant } from "../time.ts";
import { type Pace, paceEmpty, pacePerMs, paceWith } from "./pace.ts";
import type { AdmissionConfig, Offer, OfferOptions, Ticket } from "./types.ts";

export class AdmissionQueue<T> {
  /** A set keeps the order of insertion and forgets in constant time, which a cancelled request needs. */
  readonly #waiting = new Set<Ticket<T>>();
  readonly #config: AdmissionConfig;
  #pace: Pace = paceEmpty;
  /** No ticket expires before this; lets `expire` return at once in the usual case. */
  #earliestDeadlineAt: Instant = Number.POSITIVE_INFINITY;

  constructor(config: AdmissionConfig) {
    this.#config = config;
  }

  get length(): number {
    return this.#waiting.size;
  }

  /** When `expire` has to be called next; null when nobody waits. */
  get nextDeadlineAt(): Instant | null {
    return this.#waiting.size === 0 ? null : this.#earliestDeadlineAt;
  }

  /** Queues a request, or says why not and when to come back. */
  offer(now: Instant, item: T, options: OfferOptions): Offer<T> {
    const latestAt = now + this.#config.queueWaitMsMax;
    const deadlineAt = options.deadlineAt === null ? latestAt : Math.min(latestAt, options.deadlineAt);
    const waitMs = this.waitMsEstimate(now, options.readyAt);
    if (this.#waiting.size >= this.#config.queueLengthMax) {
      return { kind: "shed", why: "queueFull", retryAfterMs: this.#retryAfterMs(now, waitMs, deadlineAt) };
    }
    if (deadlineAt <= now || (waitMs !== null && now + waitMs > deadlineAt)) {
      return {
        kind: "shed",
        why: "deadlineTooSoon",
        retryAfterMs: this.#retryAfterMs(now, waitMs, deadlineAt),
      };
    }
    const ticket: Ticket<T> = { item, queuedAt: now, deadlineAt };
    this.#waiting.add(ticket);
    this.#earliestDeadlineAt = Math.min(this.#earliestDeadlineAt, deadlineAt);
    return { kind: "queued", ticket, waitMsEstimate: waitMs };
  }

  /** The request that has waited longest and is still in time; null when nobody waits. */
  take(now: Instant): Ticket<T> | null {
    for (const ticket of this.#waiting) {
      if (ticket.deadlineAt <= now) continue;
      this.#waiting.delete(ticket);
      this.#pace = paceWith(this.#pace, now);
      return ticket;
    }
    return null;
  }

  /** Forgets a request whose client went away. False when it was not waiting any more. */
  cancel(ticket: Ticket<T>): boolean {
    return this.#waiting.delete(ticket);
  }

  /** Removes and returns the requests whose time is over. */
  expire(now: Instant): Ticket<T>[] {
    if (now < this.#earliestDeadlineAt) return [];
    const expired: Ticket<T>[] = [];
    let earliest = Number.POSITIVE_INFINITY;
    for (const ticket of this.#waiting) {
      if (ticket.deadlineAt <= now) expired.push(ticket);
      else earliest = Math.min(earliest, ticket.deadlineAt);
    }
    for (const ticket of expired) this.#waiting.delete(ticket);
    this.#earliestDeadlineAt = earliest;
    return expired;
  }

  /** How long a request that came now would wait, in ms; null when nothing is known about the queue's pace. */
  waitMsEstimate(now: Instant, readyAt: Instant | null): number | null {
    const untilReadyMs = readyAt === null ? 0 : Math.max(0, readyAt - now);
    const perMs = pacePerMs(this.#pace, now);
    if (perMs === null) return readyAt === null ? null : untilReadyMs;
    return untilReadyMs + (this.#waiting.size + 1) / perMs;
  }

  /** The time until the wait would fit before the deadline (A3). */
  #retryAfterMs(now: Instant, waitMs: number | null, deadlineAt: Instant): number {
    const { retryAfterMsMin, retryAfterMsMax } = this.#config;
    const patienceMs = Math.max(0, deadlineAt - now);
    const perMs = pacePerMs(this.#pace, now);
    const onePlaceMs = perMs === null ? retryAfterMsMin : 1 / perMs;
    const neededMs = waitMs === null ? retryAfterMsMin : Math.max(onePlaceMs, waitMs - patienceMs);
    return Math.ceil(Math.min(retryAfterMsMax, Math.max(retryAfterMsMin, neededMs)));
  }
}
