// What the leading instance does: it listens, and decides as soon as something happened to a deployment.
import { type Bus, type Outbox, watchDocuments, watchSamples } from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import { createStepper } from "@pilotlight/stepper";
import type { Store } from "@pilotlight/store";
import type { Config } from "../config.ts";
import { COLD_STARTS_KEPT, createFleet } from "../domain/fleet.ts";
import { createHeard, type Key, keyOf } from "../domain/heard.ts";
import type { Nodes } from "../domain/nodes.ts";
import { readColdStarts } from "../store/cold-starts.ts";
import { readDeployments } from "../store/deployments.ts";
import { readReplicas } from "../store/replicas.ts";
import { loseNodes } from "./lose-nodes.ts";
import { stepDeployment, type World } from "./step.ts";

export type LeadPorts = { store: Store; bus: Bus; outbox: Outbox; nodes: Nodes; config: Config };

/** The stepper's key for the look at the nodes; deployments' keys have a slash in the middle. */
const NODES: Key = "nodes";

/** Leads until the signal is aborted. */
export async function lead(ports: LeadPorts, signal: AbortSignal): Promise<void> {
  const { store, bus, outbox, nodes, config } = ports;
  /** What was opened, closed in reverse when this ends, however it ends. */
  await using open = new AsyncDisposableStack();
  const ended = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
  const heard = createHeard({
    staleAfterMs: config.loadStaleAfterMs,
    forgetAfterMs: config.loadForgetAfterMs,
  });
  const fleet = createFleet(
    {
      replicas: await readReplicas(store.sql),
      deployments: await readDeployments(store.sql),
      coldStarts: await readColdStarts(store.sql, COLD_STARTS_KEPT),
    },
    Date.now(),
  );
  const world: World = { heard, nodes, fleet, outbox, config };
  let heardSince = Date.now();
  const stepper = createStepper({
    coalesceMs: config.coalesceMs,
    step: async (key) => {
      const now = Date.now();
      if (key !== NODES) return stepDeployment(world, key, now);
      // While NATS is away nobody is heard, which is nobody's fault.
      if (bus.check() !== undefined) heardSince = now;
      for (const touched of await loseNodes(world, now, heardSince)) stepper.poke(touched);
      return now + Math.ceil(config.nodeLostAfterMs / 3);
    },
  });

  /** Nothing is decided before everything that exists is known. */
  let settled = false;
  const poke = (key: Key): void => {
    if (settled) stepper.poke(key);
  };
  const bounds = await watchDocuments(bus, EVENTS.boundsSet, {}, (message) => {
    for (const key of heard.noteBounds(message)) poke(key);
  });
  open.defer(bounds.close);
  const replicas = await watchDocuments(bus, EVENTS.replicaReported, {}, ({ status }) => {
    if (status !== undefined) poke(heard.noteReplica(status));
  });
  open.defer(replicas.close);
  await Promise.race([Promise.all([bounds.current, replicas.current]), ended]);
  if (signal.aborted) return;
  open.defer(stepper.close);
  settled = true;
  for (const key of new Set([...heard.keys(), ...fleet.keys(), NODES])) stepper.poke(key);

  const samples = [
    watchSamples(bus, EVENTS.loadSampled, {}, (message) => {
      const key = heard.noteLoad(message, Date.now());
      if (key !== null) stepper.poke(key);
    }),
    watchSamples(bus, EVENTS.workerLoadSampled, {}, heard.noteWorker),
    watchSamples(bus, EVENTS.nodeReported, {}, (report) => {
      // A node that came, came back or has room again is where those go that wait for a place.
      const waiting = fleet.rows().filter((row) => row.stage === "pending");
      for (const key of new Set(waiting.map(keyOf))) stepper.poke(key);
      // It may hold what nobody here knows of.
      for (const { replicaId } of report.replicas) {
        const key = heard.keyOfReplica(replicaId);
        if (key !== undefined && !fleet.get(key).rows.has(replicaId)) stepper.poke(key);
      }
    }),
  ];
  for (const sample of samples) open.defer(sample.close);
  await ended;
}
