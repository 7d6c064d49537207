// Everything that control hears, and what it does with it.
import { type Bus, consumeWithInbox, watchDocuments, watchSamples } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import type { ReplicaView } from "@pilotlight/control-api";
import { type CoalescingWriter, startCoalescingWriter } from "../adapters/coalescing-writer.ts";
import { replicaView } from "../domain/views.ts";
import type { World } from "../domain/world.ts";
import { retireUnknown, saveReplicas } from "../store/replicas.ts";
import { onImageFailed, onImageReady } from "./image-outcome.ts";
import { onNodeLost } from "./node-lost.ts";
import { onRolloutMoved } from "./rollout-moved.ts";
import { onScaleDecided } from "./scale-decided.ts";
import { onWeightsFailed, onWeightsLoaded } from "./weights-outcome.ts";

/** Subscribes to everything. The result ends it, after what was heard is written. */
export async function listenToEvents(world: World, bus: Bus): Promise<() => Promise<void>> {
  const { store, outbox, live, now } = world;
  const facts = await consumeWithInbox(
    bus,
    store,
    outbox,
    { name: "read_model", from: "beginning" },
    {
      rolloutMoved: onRolloutMoved,
      scaleDecided: onScaleDecided,
      imageReady: onImageReady,
      imageFailed: onImageFailed,
      weightsLoaded: onWeightsLoaded,
      weightsFailed: onWeightsFailed,
      nodeLost: onNodeLost(live),
    },
  );
  const writer: CoalescingWriter<ReplicaView> = startCoalescingWriter((views) =>
    saveReplicas(store.sql, views),
  );
  const seen = new Set<string>();
  let settling = true;
  const replicas = await watchDocuments(bus, EVENTS.replicaReported, {}, ({ status }) => {
    if (status === undefined) return;
    if (settling) seen.add(status.replicaId);
    writer.put(status.replicaId, replicaView(status, now()));
  });
  const settled = replicas.current.then(async () => {
    await writer.flushed();
    await retireUnknown(store.sql, [...seen], new Date(now()));
    settling = false;
    seen.clear();
  });
  const traffic = await watchDocuments(bus, EVENTS.trafficSet, {}, live.noteTraffic);
  const samples = [
    watchSamples(bus, EVENTS.nodeReported, {}, (message) => live.noteNode(message, now())),
    watchSamples(bus, EVENTS.imageProgressed, {}, (message) => live.noteImageProgress(message, now())),
    watchSamples(bus, EVENTS.weightsProgressed, {}, (message) => live.noteWeightsProgress(message, now())),
  ];
  await settled;
  return async () => {
    await Promise.all(samples.map((sample) => sample.close()));
    await Promise.all([traffic.close(), replicas.close(), facts.close()]);
    await writer.close();
  };
}
