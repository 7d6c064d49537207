// One replica as the gateway knows it: what was reported of it, and what the gateway itself saw.
//
//   R1. `outstanding` is this object's own number for its whole life, whatever tables it is in.
//   R2. A replica that said that it drains never takes a request again (I2).
//   R3. A replica that does not answer is left alone for a while that doubles with each failure; an answer ends it.
import { ReplicaPhase, type ReplicaStatus } from "@pilotlight/contracts";
import type { RoutableReplica } from "@pilotlight/policy";

export type EjectionPolicy = { ejectMsMin: number; ejectMsMax: number };

export class Replica implements RoutableReplica {
  readonly replicaId: string;
  readonly application: string;
  readonly deployment: string;
  readonly versionNumber: number;
  readonly version: string;
  outstanding = 0;
  concurrencyMax: number;
  /** As last reported. */
  status: ReplicaStatus;
  #draining = false;
  #failures = 0;
  #ejectedUntil = 0;
  readonly #lostListeners = new Set<() => void>();

  constructor(status: ReplicaStatus, inFlightDefault: number) {
    this.replicaId = status.replicaId;
    this.application = status.application;
    this.deployment = status.deployment;
    this.versionNumber = status.version;
    this.version = String(status.version);
    this.status = status;
    this.concurrencyMax = status.inFlightMax || inFlightDefault;
  }

  /** Takes in a newer report. Phases only move forward: an older report, handed over again, changes nothing. */
  report(status: ReplicaStatus, inFlightDefault: number): void {
    if (status.phase < this.status.phase) return;
    this.status = status;
    this.concurrencyMax = status.inFlightMax || inFlightDefault;
    if (!this.isGone) return;
    for (const listener of this.#lostListeners) listener();
    this.#lostListeners.clear();
  }

  get isGone(): boolean {
    return this.status.phase === ReplicaPhase.GONE;
  }

  get ejectedUntil(): number {
    return this.#ejectedUntil;
  }

  /** Whether requests may be sent to it. */
  isRoutable(now: number): boolean {
    return (
      this.status.phase === ReplicaPhase.READY &&
      this.status.endpoint !== "" &&
      !this.#draining &&
      now >= this.#ejectedUntil
    );
  }

  /** It said itself that it takes no more. */
  drains(): void {
    this.#draining = true;
  }

  /** It did not answer, or cut an answer. Many requests see one failure: only the first of them counts. */
  failed(now: number, policy: EjectionPolicy): void {
    if (now < this.#ejectedUntil) return;
    const ejectMs = Math.min(policy.ejectMsMax, policy.ejectMsMin * 2 ** Math.min(this.#failures, 30));
    this.#failures++;
    this.#ejectedUntil = now + ejectMs;
  }

  /** It answered: earlier failures are forgotten. */
  answered(): void {
    this.#failures = 0;
  }

  /** Calls `listener` when the replica is reported gone, so that nobody waits for a lost machine's time-out. */
  onLost(listener: () => void): () => void {
    if (this.isGone) listener();
    else this.#lostListeners.add(listener);
    return () => void this.#lostListeners.delete(listener);
  }
}
