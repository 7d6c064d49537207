// An application is to go: its traffic ends, and nothing of it is wanted any more.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import { type ApplicationDeleted, EVENTS } from "@pilotlight/contracts";
import { isOver } from "@pilotlight/policy";
import { noOrders } from "../domain/orders.ts";
import { tell } from "../domain/story.ts";
import { nextGeneration, say } from "../operations/step.ts";
import { askForNothing, deleteDemand, lockApplication, saveApplication } from "../store/applications.ts";
import { findLatestRollout, saveRollout } from "../store/rollouts.ts";

/** Whoever was away for longer than this learns it from the documents' absence. */
const DOCUMENTS_KEEP_MS = 7 * 24 * 3_600_000;

export const onApplicationDeleted =
  (forget: (application: string) => void, now: () => number) =>
  async ({ application: name }: ApplicationDeleted, ports: InboxPorts, delivery: Delivery): Promise<void> => {
    const { tx, publish } = ports;
    const application = await lockApplication(tx, name);
    if (application === null) return;
    if (!(await askForNothing(tx, name, new Date(delivery.publishedAt)))) return;
    const at = now();
    const latest = await findLatestRollout(tx, name);
    if (latest !== null && !isOver(latest.state)) {
      const reason = { kind: "aborted" as const, why: "the application was deleted" };
      const state = { kind: "rolledBack" as const, at, reason };
      await saveRollout(tx, { ...latest, state, endedAt: new Date(at) });
      const versions = { from: latest.fromVersion, to: latest.toVersion };
      await say(ports, latest, tell(state, versions), at);
    }
    const generation = nextGeneration(application.generation, at);
    await saveApplication(tx, { ...application, servingVersion: null, orders: noOrders, generation });
    await deleteDemand(tx, name);
    const ttlMs = DOCUMENTS_KEEP_MS;
    publish(EVENTS.trafficSet, { application: name, generation, weights: [] }, { ttlMs });
    publish(EVENTS.boundsSet, { application: name, generation, versions: [] }, { ttlMs });
    forget(name);
  };
