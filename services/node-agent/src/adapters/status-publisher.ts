// Says every replica's state on the bus. Only the newest state of each is worth sending, so while the bus is away states
// replace each other here and nothing piles up. A replica's states are sent one after the other, never out of order.

import { setTimeout as sleep } from "node:timers/promises";
import { equals } from "@bufbuild/protobuf";
import { type Bus, publish } from "@pilotlight/bus";
import { EVENTS, type ReplicaStatus, ReplicaStatusSchema } from "@pilotlight/contracts";
import { backoffMs, type RetryPolicy, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import type { Replica } from "../domain/replica.ts";
import { statusOf } from "../domain/status.ts";

const PATIENCE: RetryPolicy = { attemptsMax: 1, initialDelayMs: 200, delayMsMax: 5_000 };

export class StatusPublisher {
  readonly #bus: Bus;
  readonly #goneKeepMs: number;
  readonly #onGoneSaid: (replicaId: string) => void;
  readonly #newest = new Map<string, Replica>();
  /** What was said last of each replica that is not gone. */
  readonly #said = new Map<string, ReplicaStatus>();
  readonly #sending = new Map<string, Promise<void>>();
  readonly #stopper = new AbortController();

  /** `goneKeepMs`: how long the last word about a gone replica is kept; `onGoneSaid`: it is kept by the server now. */
  constructor(bus: Bus, goneKeepMs: number, onGoneSaid: (replicaId: string) => void) {
    this.#bus = bus;
    this.#goneKeepMs = goneKeepMs;
    this.#onGoneSaid = onGoneSaid;
  }

  /** Sends the state as soon as possible. */
  announce(replica: Replica): void {
    const { replicaId } = replica.assignment;
    this.#newest.set(replicaId, replica);
    if (this.#sending.has(replicaId)) return;
    this.#sending.set(
      replicaId,
      Promise.resolve().then(() => this.#send(replicaId)),
    );
  }

  /** Resolves when everything is said, or after `timeoutMs`; what is not said then is said by the next agent. */
  async close(timeoutMs: number): Promise<void> {
    const deadline = sleep(timeoutMs, undefined, { ref: false });
    await Promise.race([Promise.all(this.#sending.values()), deadline]);
    this.#stopper.abort();
    await Promise.all(this.#sending.values());
  }

  async #send(replicaId: string): Promise<void> {
    for (let attempt = 1; !this.#stopper.signal.aborted; ) {
      const replica = this.#newest.get(replicaId);
      if (replica === undefined) break;
      try {
        await this.#say(replicaId, replica);
        attempt = 1;
        if (this.#newest.get(replicaId) === replica) this.#newest.delete(replicaId);
      } catch (thrown) {
        const delayMs = backoffMs(PATIENCE, attempt++, Math.random());
        logger("status").warn("a replica's state cannot be said yet", {
          replicaId,
          delayMs,
          error: toPlatformError(thrown),
        });
        await sleep(delayMs, undefined, { signal: this.#stopper.signal }).catch(() => {});
      }
    }
    this.#sending.delete(replicaId); // in the same instant as the last look at #newest
  }

  async #say(replicaId: string, replica: Replica): Promise<void> {
    const status = statusOf(replica);
    const before = this.#said.get(replicaId);
    if (before !== undefined && equals(ReplicaStatusSchema, before, status)) return;
    const isGone = replica.state.kind === "gone";
    const id = `${replicaId}:${replica.revision}`;
    const options = { id, retry: PATIENCE, ...(isGone ? { ttlMs: this.#goneKeepMs } : {}) };
    await publish(this.#bus, EVENTS.replicaReported, { status }, options);
    if (isGone) {
      this.#said.delete(replicaId);
      this.#onGoneSaid(replicaId);
    } else this.#said.set(replicaId, status);
  }
}
