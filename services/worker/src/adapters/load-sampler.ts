// Tells what the replica carries: often under load, seldom without, never when the bus is away.
import { type Bus, publishSample } from "@pilotlight/bus";
import { EVENTS, timestampFromMs } from "@pilotlight/contracts";
import type { Assignment } from "../assignment.ts";
import type { EngineLoad } from "../engine.ts";

export type SamplerSettings = { loadSampleBusyMs: number; loadSampleIdleMs: number };

/** Starts telling; the result stops it. */
export function startLoadSampler(
  { replicaId, application, version, deployment }: Assignment,
  read: () => EngineLoad,
  bus: () => Bus | undefined,
  settings: SamplerSettings,
): () => void {
  let idleSince = 0;
  const timer = setInterval(() => {
    const load = read();
    const now = Date.now();
    const isBusy = load.running + load.waiting > 0;
    if (!isBusy && now - idleSince < settings.loadSampleIdleMs) return;
    idleSince = isBusy ? 0 : now;
    const connected = bus();
    if (connected === undefined) return;
    publishSample(connected, EVENTS.workerLoadSampled, {
      replicaId,
      application,
      version,
      deployment: deployment.name,
      running: load.running,
      waiting: load.waiting,
      kvTokensUsed: load.kvTokensUsed,
      kvTokensMax: load.kvTokensMax,
      promptTokensTotal: BigInt(load.promptTokensTotal),
      outputTokensTotal: BigInt(load.outputTokensTotal),
      at: timestampFromMs(now),
    });
  }, settings.loadSampleBusyMs);
  return () => clearInterval(timer);
}
