// From lossy samples of several gateways to what is known of the load now.
//
// Samples may be lost, doubled, late or out of order, and a gateway may be gone. A gateway that was heard of lately but
// not just now makes the observation incomplete: its part is missing, so the sum is only a lower bound.
import type { Instant } from "../time.ts";
import type { LoadObservation, LoadSample } from "./types.ts";

export type LoadOptions = {
  /** A gateway's newest sample older than this does not count. */
  staleAfterMs: number;
  /** A gateway not heard of for this long is gone, and what it carried is gone with it. */
  forgetAfterMs: number;
};

/** Samples kept of one gateway: a rate over eight seconds at four samples a second, and a bound on memory (I10). */
const SAMPLES_MAX = 32;
const GATEWAYS_MAX = 256;

/** The recent samples of one deployment version, per gateway, oldest first. Plain data. */
export type LoadWindow = { gateways: { gatewayId: string; samples: LoadSample[] }[] };

export const emptyLoadWindow: LoadWindow = { gateways: [] };

/** Adds a sample. One that is not newer than what is known of its gateway (a double, a late one) changes nothing. */
export function addSample(window: LoadWindow, sample: LoadSample): LoadWindow {
  const known = window.gateways.find((gateway) => gateway.gatewayId === sample.gatewayId);
  if (known === undefined) {
    const others = window.gateways.slice(-(GATEWAYS_MAX - 1));
    return { gateways: [...others, { gatewayId: sample.gatewayId, samples: [sample] }] };
  }
  const newest = known.samples.at(-1);
  if (newest !== undefined && newest.sampledAt >= sample.sampledAt) return window;
  const samples = [...known.samples.slice(-(SAMPLES_MAX - 1)), sample];
  return {
    gateways: window.gateways.map((gateway) => (gateway === known ? { ...known, samples } : gateway)),
  };
}

/** Drops gateways that are gone. Call it now and then, so that the window does not remember them for ever. */
export function forgetGateways(now: Instant, window: LoadWindow, options: LoadOptions): LoadWindow {
  const alive = window.gateways.filter((gateway) => now - newestAt(gateway.samples) <= options.forgetAfterMs);
  return alive.length === window.gateways.length ? window : { gateways: alive };
}

/** What is known now; null when no gateway was heard of. */
export function observeLoad(now: Instant, window: LoadWindow, options: LoadOptions): LoadObservation | null {
  let inFlight = 0;
  let queued = 0;
  let heard = 0;
  let complete = true;
  let arrivedPerS: number | null = 0;
  let completedPerS: number | null = 0;
  for (const { samples } of window.gateways) {
    const newest = samples.at(-1);
    if (newest === undefined || now - newest.sampledAt > options.forgetAfterMs) continue;
    if (now - newest.sampledAt > options.staleAfterMs) {
      complete = false;
      continue;
    }
    heard++;
    inFlight += newest.inFlight;
    queued += newest.queued;
    arrivedPerS = plus(
      arrivedPerS,
      rate(samples, (sample) => sample.arrivedTotal),
    );
    completedPerS = plus(
      completedPerS,
      rate(samples, (sample) => sample.completedTotal),
    );
  }
  return heard === 0 ? null : { inFlight, queued, arrivedPerS, completedPerS, complete };
}

const newestAt = (samples: readonly LoadSample[]): Instant => samples.at(-1)?.sampledAt ?? 0;
const plus = (a: number | null, b: number | null) => (a === null || b === null ? null : a + b);

/** Per second between the oldest and the newest sample; null when that cannot be told (one sample, a restart). */
function rate(samples: readonly LoadSample[], total: (sample: LoadSample) => number | null): number | null {
  const first = samples[0];
  const last = samples.at(-1);
  if (first === undefined || last === undefined || last.sampledAt <= first.sampledAt) return null;
  const from = total(first);
  const to = total(last);
  if (from === null || to === null || to < from) return null;
  return ((to - from) / (last.sampledAt - first.sampledAt)) * 1000;
}
