// Where this replica stands: its phases with their times, and what it tells the node agent. Phases only move forward.
import { ReplicaPhase } from "@pilotlight/contracts";
import type { PlatformError } from "@pilotlight/errors";

export type LifeMark = { phase: ReplicaPhase; at: number };

export class Life {
  #phase = ReplicaPhase.PROCESS_UP;
  #failure: PlatformError | null = null;
  readonly #marks: LifeMark[];
  readonly #listeners = new Set<() => void>();

  constructor(now: number) {
    this.#marks = [{ phase: ReplicaPhase.PROCESS_UP, at: now }];
  }

  get phase(): ReplicaPhase {
    return this.#phase;
  }

  get marks(): readonly LifeMark[] {
    return this.#marks;
  }

  get failure(): PlatformError | null {
    return this.#failure;
  }

  get takesRequests(): boolean {
    return this.#phase === ReplicaPhase.READY;
  }

  get isDraining(): boolean {
    return this.#phase >= ReplicaPhase.DRAINING;
  }

  /** Moves on; a phase that was passed already changes nothing. */
  enter(phase: ReplicaPhase, now: number): void {
    if (phase <= this.#phase) return;
    this.#phase = phase;
    this.#marks.push({ phase, at: now });
    this.#changed();
  }

  /** The replica cannot go on. The first reason counts. */
  fail(error: PlatformError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#changed();
  }

  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }
}
