// Tells the load of every endpoint: often while it has requests, seldom while it has none, at once when the first comes,
// because that one may have to wake a model.
import { type Bus, publishSample } from "@pilotlight/bus";
import { EVENTS, timestampFromMs } from "@pilotlight/contracts";
import type { Endpoint } from "../domain/endpoint.ts";
import type { Fleet } from "../domain/fleet.ts";
import type { LoadBook } from "../domain/load.ts";

export type SamplerSettings = { gatewayId: string; loadSampleBusyMs: number; loadSampleIdleMs: number };

export class LoadSampler {
  readonly #fleet: Fleet;
  readonly #book: LoadBook;
  readonly #bus: () => Bus | undefined;
  readonly #settings: SamplerSettings;
  readonly #toldAt = new WeakMap<Endpoint, { at: number; requests: number }>();
  #timer: NodeJS.Timeout | null = null;
  #isBusy = false;

  constructor(fleet: Fleet, book: LoadBook, bus: () => Bus | undefined, settings: SamplerSettings) {
    this.#fleet = fleet;
    this.#book = book;
    this.#bus = bus;
    this.#settings = settings;
  }

  start(): void {
    this.#arm(0);
  }

  /** A request came: an idle sampler wakes up. */
  nudge(): void {
    if (this.#isBusy) return;
    this.#isBusy = true;
    this.#arm(0);
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  #arm(delayMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tick(), delayMs);
  }

  #tick(): void {
    const { loadSampleBusyMs, loadSampleIdleMs } = this.#settings;
    const now = Date.now();
    this.#isBusy = false;
    for (const endpoint of this.#fleet.endpoints()) this.#tell(endpoint, now);
    this.#arm(this.#isBusy ? loadSampleBusyMs : loadSampleIdleMs);
  }

  #tell(endpoint: Endpoint, now: number): void {
    const rows = this.#book.rows(endpoint);
    const requests = rows.reduce((sum, row) => sum + row.requestsTotal, 0);
    const told = this.#toldAt.get(endpoint);
    const isBusy = rows.some((row) => row.inFlight + row.queued > 0) || requests !== told?.requests;
    this.#isBusy ||= isBusy;
    // Timers come a little early or late: a tenth of the interval does not count.
    if (!isBusy && told !== undefined && now - told.at < this.#settings.loadSampleIdleMs * 0.9) return;
    this.#toldAt.set(endpoint, { at: now, requests });
    const bus = this.#bus();
    if (bus === undefined) return;
    for (const row of rows) {
      publishSample(bus, EVENTS.loadSampled, {
        gatewayId: this.#settings.gatewayId,
        application: endpoint.application,
        deployment: endpoint.deployment,
        version: row.version,
        inFlight: row.inFlight,
        queued: row.queued,
        requestsTotal: BigInt(row.requestsTotal),
        failuresTotal: BigInt(row.failuresTotal),
        at: timestampFromMs(now),
      });
    }
  }
}
