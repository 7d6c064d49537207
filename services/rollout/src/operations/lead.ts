// What the leading instance does: it listens, and steps rollouts as soon as something happened to them.
import {
  type Bus,
  consumeWithInbox,
  type InboxPorts,
  type Outbox,
  watchDocuments,
  watchSamples,
} from "@pilotlight/bus";
import { EVENTS } from "@pilotlight/contracts";
import { createStepper } from "@pilotlight/stepper";
import type { Store } from "@pilotlight/store";
import { createWorld } from "../domain/heard.ts";
import { onApplicationDeleted } from "../handlers/application-deleted.ts";
import { onScaleDecided } from "../handlers/scale-decided.ts";
import { onVersionActivationRequested } from "../handlers/version-activation-requested.ts";
import { listApplicationNames, lockApplication, readSpecs } from "../store/applications.ts";
import { publishOrders, stepApplication } from "./step.ts";

/** Requests change nothing but the gates, which need not look at each of them. */
const REQUESTS_COALESCE_MS = 500;

export type LeadPorts = { store: Store; bus: Bus; outbox: Outbox; coalesceMs: number };

/** Leads until the signal is aborted. */
export async function lead(
  { store, bus, outbox, coalesceMs }: LeadPorts,
  signal: AbortSignal,
): Promise<void> {
  /** What was opened, closed in reverse when this ends, however it ends. */
  await using open = new AsyncDisposableStack();
  const ended = new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
  const world = createWorld();
  /** Applications with a rollout that runs; nobody else needs a step when something is heard. */
  const active = new Set<string>();
  const stepWith = async (ports: InboxPorts, name: string): Promise<number | null> => {
    const wakeAt = await stepApplication(world, ports, name, Date.now());
    if (wakeAt === null) active.delete(name);
    else active.add(name);
    return wakeAt;
  };
  const stepper = createStepper({
    coalesceMs,
    step: (name) => outbox.transaction((tx, publish) => stepWith({ tx, publish }, name)),
  });
  const stepInside = async (ports: InboxPorts, name: string): Promise<void> => {
    const wakeAt = await stepWith(ports, name);
    if (wakeAt !== null) stepper.wakeAt(name, wakeAt);
  };
  const touch = (name: string, delayMs: number) => {
    if (active.has(name)) stepper.wakeAt(name, Date.now() + delayMs);
  };

  const replicas = await watchDocuments(bus, EVENTS.replicaReported, {}, ({ status }) => {
    if (status === undefined) return;
    world.noteReplica(status, Date.now());
    touch(status.application, 0);
  });
  open.defer(replicas.close);
  const workers = watchSamples(bus, EVENTS.workerLoadSampled, {}, (sample) =>
    world.noteWorker(sample, Date.now()),
  );
  open.defer(workers.close);
  const requests = watchSamples(bus, EVENTS.requestFinished, {}, (request) => {
    world.noteRequest(request);
    touch(request.application, REQUESTS_COALESCE_MS);
  });
  open.defer(requests.close);
  // Nothing is decided before every replica that exists is known.
  await Promise.race([replicas.current, ended]);
  if (signal.aborted) return;
  open.defer(stepper.close);
  await resume({ store, outbox }, stepper.poke);
  const wishes = await consumeWithInbox(
    bus,
    store,
    outbox,
    { name: "wishes", from: "beginning" },
    {
      versionActivationRequested: onVersionActivationRequested(stepInside),
      applicationDeleted: onApplicationDeleted((name) => {
        world.forget(name);
        active.delete(name);
      }, Date.now),
      scaleDecided: onScaleDecided(stepInside),
    },
  );
  open.defer(wishes.close);
  await ended;
}

/** Says again what holds, and goes on with every rollout. */
async function resume(
  { store, outbox }: Pick<LeadPorts, "store" | "outbox">,
  poke: (name: string) => void,
): Promise<void> {
  for (const name of await listApplicationNames(store.sql)) {
    await outbox.transaction(async (tx, publish) => {
      const application = await lockApplication(tx, name);
      if (application === null || application.wantedVersion === null) return;
      publishOrders(publish, application, await readSpecs(tx, name));
    });
    poke(name);
  }
}
