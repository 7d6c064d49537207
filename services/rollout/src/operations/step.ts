// One step of one application: look, decide, write, and say it, in one transaction. The state is written before anything
// goes out (the outbox sends after the commit), so a process that is killed anywhere goes on where it was.
import type { PublishInTransaction } from "@pilotlight/bus";
import { EVENTS, type MessageInitShape, type RolloutMovedSchema } from "@pilotlight/contracts";
import { decideRollout, isOver, nextRollout, startRollout } from "@pilotlight/policy";
import type { Transaction } from "@pilotlight/store";
import type { World } from "../domain/heard.ts";
import { applyActions, boundsDocument, type Orders, type Specs, trafficDocument } from "../domain/orders.ts";
import { makePlan } from "../domain/plan.ts";
import { isMove, type Telling, tell } from "../domain/story.ts";
import {
  type ApplicationRow,
  deleteSpecsBut,
  lockApplication,
  readDemand,
  readSpecs,
  saveApplication,
} from "../store/applications.ts";
import { addStep, findLatestRollout, type RolloutRow, saveRollout } from "../store/rollouts.ts";

export type StepPorts = { tx: Transaction; publish: PublishInTransaction };

/** Steps an application. Gives when to look again (epoch ms), or null when no rollout runs. */
export async function stepApplication(
  world: World,
  ports: StepPorts,
  name: string,
  now: number,
): Promise<number | null> {
  const application = await lockApplication(ports.tx, name);
  if (application === null) return null;
  const specs = await readSpecs(ports.tx, name);
  // A rollout may end and the next one begin in the same step.
  for (;;) {
    const latest = await findLatestRollout(ports.tx, name);
    const next = nextRollout(
      textOf(application.servingVersion),
      textOf(application.wantedVersion),
      latest === null ? null : { to: String(latest.toVersion), state: latest.state },
      application.askedAgain,
    );
    if (next.kind === "start") {
      await begin(ports, application, specs, now);
      continue;
    }
    if (latest === null || isOver(latest.state)) return null;
    const stop = next.kind === "supersede" ? "superseded" : null;
    const { rollout, wakeAt } = await advance(world, ports, application, latest, specs, stop, now);
    if (!isOver(rollout.state)) return wakeAt;
  }
}

async function begin(
  ports: StepPorts,
  application: ApplicationRow,
  specs: Specs,
  now: number,
): Promise<void> {
  const { name, servingVersion, wantedVersion } = application;
  const to = sideOf(specs, wantedVersion);
  if (to === null) throw new Error(`${name} has no specification of version ${wantedVersion}`);
  const plan = makePlan(sideOf(specs, servingVersion), to, application.wayBack);
  const rollout: RolloutRow = {
    rolloutId: `${name}-v${to.version}-${now.toString(36)}`,
    application: name,
    fromVersion: servingVersion,
    toVersion: to.version,
    plan,
    state: startRollout(now, plan),
    startedAt: new Date(now),
    endedAt: null,
  };
  application.askedAgain = false;
  await saveApplication(ports.tx, application);
  await saveRollout(ports.tx, rollout);
  await say(ports, rollout, tell(rollout.state, versionsOf(rollout)), now);
}

async function advance(
  world: World,
  ports: StepPorts,
  application: ApplicationRow,
  before: RolloutRow,
  specs: Specs,
  stop: "superseded" | null,
  now: number,
): Promise<{ rollout: RolloutRow; wakeAt: number | null }> {
  const { tx, publish } = ports;
  const { name } = application;
  const heardOf = { words: await readDemand(tx, name), generation: application.generation };
  const seen = world.observe(name, before.plan, before.startedAt.getTime(), heardOf, stop);
  const { state, actions, wakeAt } = decideRollout(now, seen, before.state, before.plan);
  const rollout = { ...before, state, endedAt: isOver(state) ? new Date(now) : null };
  await saveRollout(tx, rollout);
  if (actions.length > 0) {
    application.orders = applyActions(application.orders, actions, specs);
    if (state.kind === "done") application.servingVersion = rollout.toVersion;
    application.generation = nextGeneration(application.generation, now);
    await saveApplication(tx, application);
    publishOrders(publish, application, specs);
  }
  if (isMove(before.state, state)) await say(ports, rollout, tell(state, versionsOf(rollout), actions), now);
  if (isOver(state)) await deleteSpecsBut(tx, name, neededVersions(application));
  return { rollout, wakeAt };
}

/** Says what holds now. Also after a restart, in case the bus has lost it. */
export function publishOrders(
  publish: PublishInTransaction,
  application: { name: string; orders: Orders; generation: bigint },
  specs: Specs,
): void {
  const { name, orders, generation } = application;
  // Traffic first: a version loses requests before it loses replicas.
  publish(EVENTS.trafficSet, trafficDocument(name, orders, generation, specs));
  publish(EVENTS.boundsSet, boundsDocument(name, orders, generation, specs));
}

/** Grows with each change, and is above every earlier one even where the database was lost. */
export const nextGeneration = (before: bigint, now: number): bigint =>
  before + 1n > BigInt(now) ? before + 1n : BigInt(now);

/** Adds to the story of a rollout and tells it to everybody. */
export async function say(
  { tx, publish }: StepPorts,
  rollout: RolloutRow,
  telling: Telling,
  now: number,
): Promise<void> {
  await addStep(tx, rollout.rolloutId, telling, new Date(now));
  publish(EVENTS.rolloutMoved, movedMessage(rollout, telling));
}

/** The event about a rollout's move. */
export const movedMessage = (
  rollout: Pick<RolloutRow, "rolloutId" | "application" | "fromVersion" | "toVersion">,
  telling: Telling,
): MessageInitShape<typeof RolloutMovedSchema> => ({
  rolloutId: rollout.rolloutId,
  application: rollout.application,
  fromVersion: rollout.fromVersion ?? 0,
  toVersion: rollout.toVersion,
  ...telling,
});

const textOf = (version: number | null) => (version === null ? null : String(version));
const versionsOf = (rollout: RolloutRow) => ({ from: rollout.fromVersion, to: rollout.toVersion });

function sideOf(specs: Specs, version: number | null) {
  const spec = version === null ? undefined : specs.get(version);
  return version === null || spec === undefined ? null : { version, spec };
}

const neededVersions = (application: ApplicationRow): number[] =>
  [
    application.wantedVersion,
    application.servingVersion,
    ...application.orders.bounds.map((bound) => bound.version),
    ...application.orders.traffic.map((weight) => weight.version),
  ].filter((version) => version !== null);
