// One decision about one deployment: look, decide, write, and say it, in one transaction. Orders go out by the outbox,
// after the rows that stand for them are committed, so a process killed anywhere has neither lost nor doubled one.
import { randomBytes, randomUUID } from "node:crypto";
import type { Outbox, PublishInTransaction } from "@pilotlight/bus";
import { type DeploymentSpec, EVENTS, ReplicaPhase, timestampFromMs } from "@pilotlight/contracts";
import { type AutoscalingDecision, place, recordDecision } from "@pilotlight/policy";
import type { Transaction } from "@pilotlight/store";
import { logger } from "@pilotlight/telemetry";
import type { Config } from "../config.ts";
import { COLD_STARTS_KEPT, type Fleet, type Managed } from "../domain/fleet.ts";
import { type Heard, type Key, partsOf } from "../domain/heard.ts";
import { type Nodes, placementNodes } from "../domain/nodes.ts";
import { observe, policyConfig, specOf } from "../domain/observe.ts";
import { adopt, markOf, type ReplicaRow, type Standing, standingOf } from "../domain/replica.ts";
import { newsBetween, reasonText, type Said, sayingOf } from "../domain/saying.ts";
import { type ColdStart, saveColdStart } from "../store/cold-starts.ts";
import { insertDecision } from "../store/decisions.ts";
import { deleteDeployment, saveDeployment } from "../store/deployments.ts";
import { deleteReplicas, saveReplica } from "../store/replicas.ts";

export type World = { heard: Heard; nodes: Nodes; fleet: Fleet; outbox: Outbox; config: Config };

/** What a decision comes to: rows as they will be, and what is told to nodes once they are committed. */
type Orders = {
  rows: Map<string, ReplicaRow>;
  changed: Set<string>;
  told: ((publish: PublishInTransaction) => void)[];
};

/** Decides about `key` and acts on it. Gives when to decide again (epoch ms) if nothing happens before. */
export async function stepDeployment(world: World, key: Key, now: number): Promise<number | null> {
  const { heard, fleet, config } = world;
  const before = fleet.get(key);
  const { application, deployment } = partsOf(key);
  const bounds = heard.boundsOf(application);
  const settled = settle(world, key, before, now);

  const observation = observe({
    deployment,
    bounds,
    replicas: settled.here,
    loadOf: (version, withUnassigned) => heard.loadOf(key, version, withUnassigned, now),
    coldStartsMs: settled.coldStartsMs,
  });
  if (observation.versions.length === 0) return forget(world, key, settled);
  const policy = policyConfig(bounds, deployment, config);
  const { decision, record } = recordDecision("autoscaling", now, observation, before.state, policy);

  const orders: Orders = { rows: settled.rows, changed: settled.changed, told: [] };
  const failedOn = applyActions(world, orders, key, decision, now);
  const waiting = placePending(world, orders, key, failedOn, now);
  const said = sayingOf(decision, bounds?.generation ?? 0n, orders.rows.values(), waiting);
  const news = newsBetween(before.said, said);

  const acted = decision.actions.length > 0 || orders.changed.size > 0 || news.length > 0;
  const targetMoved = decision.state.target !== before.state.target;
  const recorded = acted || targetMoved || now - before.recordedAt >= config.recordUnchangedIntervalMs;
  const after: Managed = {
    rows: orders.rows,
    state: decision.state,
    said,
    coldStartsMs: settled.coldStartsMs,
    recordedAt: recorded ? now : before.recordedAt,
  };
  if (recorded) {
    await world.outbox.transaction(async (tx, publish) => {
      await writeRows(tx, before, orders);
      for (const start of settled.coldStarts) await saveColdStart(tx, start, COLD_STARTS_KEPT);
      await saveDeployment(tx, { application, deployment, state: decision.state, said });
      const decisionId = randomUUID();
      const alive = settled.here.filter(({ phase }) => phase === "starting" || phase === "ready");
      await insertDecision(tx, {
        decisionId,
        application,
        deployment,
        version: Math.max(0, ...observation.versions.map(({ version }) => Number(version))),
        at: new Date(now),
        replicasBefore: alive.length,
        replicasWanted: decision.explain.target,
        reason: reasonText(decision, [...waiting.values()].join("; ")),
        record,
      });
      for (const tell of orders.told) tell(publish);
      for (const version of news) {
        sayDecision(publish, key, { decisionId, version: Number(version), decision, said, alive, now });
      }
    });
  }
  fleet.set(key, after);
  heard.forgetGone(key, orders.rows);
  return earliest(decision.wakeAt, unansweredDueAt(world, key, orders.rows.values(), now));
}

/** When to look after orders that nobody has reported on yet; again and again while their node is silent. */
function unansweredDueAt(
  { heard, config }: World,
  key: Key,
  rows: Iterable<ReplicaRow>,
  now: number,
): number | null {
  const statuses = heard.statusesOf(key);
  const due = [...rows]
    .filter((row) => row.stage !== "pending" && !statuses.has(row.replicaId))
    .map((row) => Math.max(row.stagedAt + config.orderTimeoutMs, now + config.nodeSilentAfterMs));
  return due.length === 0 ? null : Math.min(...due);
}

/** Nobody wants the deployment any more, and nothing is left of it. */
async function forget({ heard, fleet, outbox }: World, key: Key, settled: Settled): Promise<null> {
  if (fleet.has(key)) {
    await outbox.transaction(async (tx) => {
      await deleteReplicas(tx, [...settled.changed]);
      await deleteDeployment(tx, partsOf(key));
    });
    fleet.delete(key);
  }
  heard.forgetGone(key, settled.rows);
  return null;
}

type Settled = {
  rows: Map<string, ReplicaRow>;
  changed: Set<string>;
  here: (Extract<Standing, { kind: "here" }> & { version: number })[];
  coldStarts: ColdStart[];
  coldStartsMs: readonly number[];
};

/** Brings the rows up to what the nodes report: who is gone, who is new, who became ready. */
function settle({ heard, nodes, config }: World, key: Key, before: Managed, now: number): Settled {
  const statuses = heard.statusesOf(key);
  const rows = new Map(before.rows);
  const changed = new Set<string>();
  for (const status of statuses.values()) {
    if (rows.has(status.replicaId) || status.phase === ReplicaPhase.GONE) continue;
    if (nodes.holds(status.nodeId, status.replicaId, now, config.nodeSilentAfterMs) !== true) continue;
    logger("fleet").warn("adopting a replica that nobody here ordered", { replicaId: status.replicaId });
    rows.set(status.replicaId, adopt(status, now));
    changed.add(status.replicaId);
  }
  const here: Settled["here"] = [];
  const coldStarts: ColdStart[] = [];
  for (const row of [...rows.values()]) {
    const status = statuses.get(row.replicaId);
    const held =
      row.nodeId === null ? null : nodes.holds(row.nodeId, row.replicaId, now, config.nodeSilentAfterMs);
    const inFlight = heard.inFlightOf(row.replicaId);
    const standing = standingOf(now, row, { status, held, inFlight }, config.orderTimeoutMs);
    if (standing.kind === "gone") {
      rows.delete(row.replicaId);
      changed.add(row.replicaId);
      continue;
    }
    here.push({ ...standing, version: row.version });
    const readyAt = status === undefined ? null : markOf(status, ReplicaPhase.READY);
    if (readyAt === null || row.readyAt !== null) continue;
    rows.set(row.replicaId, { ...row, readyAt });
    changed.add(row.replicaId);
    const durationMs = Math.max(0, Math.round(readyAt - row.decidedAt));
    coldStarts.push({ ...partsOf(key), replicaId: row.replicaId, durationMs, readyAt });
  }
  const coldStartsMs = [...before.coldStartsMs, ...coldStarts.map((start) => start.durationMs)];
  return { rows, changed, here, coldStarts, coldStartsMs: coldStartsMs.slice(-COLD_STARTS_KEPT) };
}

/** Turns the policy's actions into rows and orders. Gives the nodes on which replicas failed just now. */
function applyActions(
  { heard }: World,
  orders: Orders,
  key: Key,
  decision: AutoscalingDecision,
  now: number,
): string[] {
  const { application, deployment } = partsOf(key);
  const bounds = heard.boundsOf(application);
  const failedOn: string[] = [];
  for (const action of decision.actions) {
    switch (action.kind) {
      case "startReplica": {
        const version = Number(action.version);
        const { resources } = specOf(bounds, deployment, version) ?? {};
        const row: ReplicaRow = {
          replicaId: `${application}-${deployment}-v${version}-${action.ordinal}${uniqueSuffix()}`,
          application,
          deployment,
          version,
          stage: "pending",
          nodeId: null,
          devices: [],
          memoryMib: resources?.memoryMib ?? 0,
          decidedAt: now,
          stagedAt: now,
          readyAt: null,
        };
        orders.rows.set(row.replicaId, row);
        orders.changed.add(row.replicaId);
        break;
      }
      case "drainReplica": {
        const row = orders.rows.get(action.replicaId);
        if (row === undefined) break;
        orders.changed.add(row.replicaId);
        if (row.nodeId === null) {
          orders.rows.delete(row.replicaId); // nobody was told of it yet
          break;
        }
        const { nodeId, replicaId } = row;
        orders.rows.set(replicaId, { ...row, stage: "draining", stagedAt: now });
        const drainTimeoutMs =
          specOf(bounds, deployment, row.version)?.drainTimeoutMs ?? DRAIN_TIMEOUT_MS_UNKNOWN;
        orders.told.push((publish) =>
          publish(
            EVENTS.replicaUnwanted,
            { replicaId, nodeId, drainTimeoutMs, reason: decision.reason },
            { id: `unwanted:${replicaId}` },
          ),
        );
        break;
      }
      case "removeReplica": {
        const nodeId = orders.rows.get(action.replicaId)?.nodeId;
        if (nodeId) failedOn.push(nodeId);
        orders.rows.delete(action.replicaId);
        orders.changed.add(action.replicaId);
        break;
      }
      default:
        action satisfies never;
    }
  }
  return failedOn;
}

/** For replicas of a version that was retired before they were told to go, and whose settings are forgotten. */
const DRAIN_TIMEOUT_MS_UNKNOWN = 300_000;

/** With the ordinal it makes a name that was never used, even where the database was lost. */
const uniqueSuffix = () => randomBytes(3).toString("hex");

/** Gives pending replicas a place. Gives why others have none, by version. */
function placePending(
  { heard, nodes, fleet, config }: World,
  orders: Orders,
  key: Key,
  failedOn: readonly string[],
  now: number,
): Map<number, string> {
  const waiting = new Map<number, string>();
  const pending = [...orders.rows.values()].filter((row) => row.stage === "pending");
  if (pending.length === 0) return waiting;
  const { application, deployment } = partsOf(key);
  const others = fleet
    .rows()
    .filter((row) => row.application !== application || row.deployment !== deployment);
  for (const row of pending) {
    const spec = specOf(heard.boundsOf(application), deployment, row.version);
    if (spec === undefined) continue; // retired since: the policy drains it in this or the next decision
    const free = placementNodes(nodes.all(), [...others, ...orders.rows.values()], {
      now,
      silentAfterMs: config.nodeSilentAfterMs,
      application,
      deployment,
    });
    const request = {
      accelerators: spec.resources?.accelerators ?? 0,
      memoryMb: spec.resources?.memoryMib ?? 0,
      acceleratorKind: null,
      avoidNodeIds: failedOn,
    };
    const placement = place(request, free, config.placementStrategy);
    if (placement.kind === "unplaceable") {
      waiting.set(row.version, placement.why);
      continue;
    }
    const { nodeId, devices } = placement;
    orders.rows.set(row.replicaId, { ...row, stage: "placed", nodeId, devices, stagedAt: now });
    orders.changed.add(row.replicaId);
    orders.told.push((publish) => {
      publish(
        EVENTS.replicaWanted,
        {
          assignment: {
            replicaId: row.replicaId,
            application,
            version: row.version,
            nodeId,
            deployment: spec,
            decidedAt: timestampFromMs(row.decidedAt),
            deviceIndexes: devices.map((device) => device.index),
          },
        },
        { id: `wanted:${row.replicaId}` },
      );
      // The weights are on their way while the image is mounted and the process starts.
      if (spec.model !== undefined)
        publish(EVENTS.weightsWanted, { nodeId, source: spec.model.source, ranks: ranksOf(spec) });
    });
  }
  return waiting;
}

/** Of the tensor-parallel group that loads the weights of one replica; 0 where the platform does not know. */
const ranksOf = ({ engine }: DeploymentSpec): number =>
  engine?.kind.case === "embedded" ? engine.kind.value.tensorParallel : 0;

async function writeRows(tx: Transaction, before: Managed, orders: Orders): Promise<void> {
  const gone = [...orders.changed].filter((id) => before.rows.has(id) && !orders.rows.has(id));
  if (gone.length > 0) await deleteReplicas(tx, gone);
  for (const id of orders.changed) {
    const row = orders.rows.get(id);
    if (row !== undefined) await saveReplica(tx, row);
  }
}

type Saying = {
  decisionId: string;
  version: number;
  decision: AutoscalingDecision;
  said: Said;
  alive: readonly { version: number }[];
  now: number;
};

function sayDecision(publish: PublishInTransaction, key: Key, saying: Saying): void {
  const { decisionId, version, decision, said, alive, now } = saying;
  const one = said.versions[String(version)];
  publish(EVENTS.scaleDecided, {
    ...partsOf(key),
    decisionId,
    version,
    replicasBefore: alive.filter((replica) => replica.version === version).length,
    replicasWanted: one?.wanted ?? 0,
    replicasDemanded: one?.demanded ?? 0,
    reason: reasonText(decision, one?.waiting ?? ""),
    at: timestampFromMs(now),
    boundsGeneration: BigInt(said.generation),
    held: Object.entries(said.held).map(([of, replicas]) => ({ version: Number(of), replicas })),
  });
}

const earliest = (a: number | null, b: number | null): number | null =>
  a === null ? b : b === null ? a : Math.min(a, b);
