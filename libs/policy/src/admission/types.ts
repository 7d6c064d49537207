// What may wait for a replica, how long, and what those are told that may not.
import type { Instant } from "../time.ts";

export type AdmissionConfig = {
  /** Requests that may wait. 0 sheds whatever no replica has room for. */
  queueLengthMax: number;
  /** Longest wait of one request, in ms. */
  queueWaitMsMax: number;
  /** Bounds of the Retry-After that a refused client is given, in ms. */
  retryAfterMsMin: number;
  retryAfterMsMax: number;
};

export type OfferOptions = {
  /** When the client stops waiting, if it said so. */
  deadlineAt: Instant | null;
  /** When the next replica is expected to be ready; null when unknown or when there are ready ones. */
  readyAt: Instant | null;
};

/** A place in the queue. Compare by identity; `deadlineAt` is when it expires. */
export type Ticket<T> = { readonly item: T; readonly queuedAt: Instant; readonly deadlineAt: Instant };

export type Offer<T> =
  | { kind: "queued"; ticket: Ticket<T>; waitMsEstimate: number | null }
  | { kind: "shed"; why: "queueFull" | "deadlineTooSoon"; retryAfterMs: number };
