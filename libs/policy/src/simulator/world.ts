// What is really there, as opposed to what controllers believe: the clock, chance, messages that take their time, and
// the violations that were found.
import { createRandom, type Random } from "../random.ts";
import { EventQueue } from "./events.ts";
import type { SimulationOptions } from "./options.ts";

export class World {
  readonly options: SimulationOptions;
  readonly events = new EventQueue();
  readonly random: Random;
  /** Each kind once, with the time at which it was seen first. */
  readonly violations = new Map<string, string>();

  constructor(options: SimulationOptions) {
    this.options = options;
    this.random = createRandom(options.seed);
  }

  get now(): number {
    return this.events.now;
  }

  violate(invariant: string, what: string): void {
    if (!this.violations.has(invariant))
      this.violations.set(invariant, `${invariant} at ${this.now}: ${what}`);
  }

  chance(share: number): boolean {
    return share > 0 && this.random() < share;
  }

  /** An exponential time with the given mean. */
  exponential(mean: number): number {
    return -mean * Math.log(1 - this.random());
  }

  /** A standard normal number (Box and Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.random())) * Math.cos(2 * Math.PI * this.random());
  }

  /** Delivers a control message: late, sometimes much later, but surely (JetStream redelivers). */
  send(deliver: () => void): void {
    const { messageMsMax, messageRedelivered } = this.options.faults;
    const lateMs = this.chance(messageRedelivered) ? 1_000 : 0;
    this.events.after(this.random() * messageMsMax + lateMs, deliver);
  }
}
