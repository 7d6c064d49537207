// A replica between what was ordered and what its node reports: where it stands for the policy, and when it is gone.
import {
  GoneReason,
  type MessageShape,
  ReplicaPhase,
  type ReplicaStatusSchema,
  timestampMs,
} from "@pilotlight/contracts";
import type { ReplicaObservation } from "@pilotlight/policy";

export type ReplicaStatus = MessageShape<typeof ReplicaStatusSchema>;

/** A place that is taken: what was ordered. */
export type ReplicaRow = {
  replicaId: string;
  application: string;
  deployment: string;
  version: number;
  /** `pending`: no node has room yet · `placed`: its node was told · `draining`: its node was told to end it. */
  stage: "pending" | "placed" | "draining";
  nodeId: string | null;
  devices: { index: number; share: number }[];
  memoryMib: number;
  decidedAt: number;
  stagedAt: number;
  /** Null until it was ready for the first time. */
  readyAt: number | null;
};

/** What is known of a replica beside its row. */
export type Evidence = {
  status: ReplicaStatus | undefined;
  /** The node is alive and holds it; null: the node was not heard of. */
  held: boolean | null;
  inFlight: number | null;
};

export type Standing = { kind: "gone" } | ({ kind: "here" } & ReplicaObservation);

/** Where a replica stands. An order that its node does not know of after `orderTimeoutMs` is lost. */
export function standingOf(
  now: number,
  row: ReplicaRow,
  { status, held, inFlight }: Evidence,
  orderTimeoutMs: number,
): Standing {
  const here = (phase: ReplicaObservation["phase"], since: number): Standing => {
    return { kind: "here", replicaId: row.replicaId, phase, since, inFlight };
  };
  const lost = status === undefined && held === false && now - row.stagedAt >= orderTimeoutMs;
  switch (row.stage) {
    case "pending":
      return here("starting", row.decidedAt);
    case "draining":
      if (status?.phase === ReplicaPhase.GONE || lost) return { kind: "gone" };
      return here("draining", row.stagedAt);
    case "placed":
      if (status === undefined) return lost ? here("failed", now) : here("starting", row.decidedAt);
      return reported(row, status, here);
    default:
      return row.stage satisfies never;
  }
}

function reported(
  row: ReplicaRow,
  status: ReplicaStatus,
  here: (phase: ReplicaObservation["phase"], since: number) => Standing,
): Standing {
  const since = markOf(status, status.phase) ?? row.stagedAt;
  switch (status.phase) {
    case ReplicaPhase.READY:
      return here("ready", since);
    case ReplicaPhase.DRAINING:
      return here("draining", since); // its node ends it by itself: it is being shut down
    case ReplicaPhase.GONE:
      return isFailure(status) ? here("failed", since) : { kind: "gone" };
    default:
      return here("starting", row.decidedAt);
  }
}

/** It went by its own fault, not by an order and not with its node. */
const isFailure = ({ goneReason }: ReplicaStatus): boolean =>
  goneReason === GoneReason.CRASHED || goneReason === GoneReason.START_FAILED;

/** When a replica entered a phase; null when it did not. */
export function markOf(status: ReplicaStatus, phase: ReplicaPhase): number | null {
  const at = status.marks.findLast((mark) => mark.phase === phase)?.at;
  return at === undefined ? null : timestampMs(at);
}

/** A row for a replica that its node holds and nobody here ordered: the database was lost, or the node came back. */
export function adopt(status: ReplicaStatus, now: number): ReplicaRow {
  const { accelerators = 0, memoryMib = 0 } = status.resources ?? {};
  return {
    replicaId: status.replicaId,
    application: status.application,
    deployment: status.deployment,
    version: status.version,
    stage: status.phase === ReplicaPhase.DRAINING ? "draining" : "placed",
    nodeId: status.nodeId,
    devices: devicesOf(accelerators),
    memoryMib,
    decidedAt: markOf(status, ReplicaPhase.DECIDED) ?? now,
    stagedAt: now,
    readyAt: markOf(status, ReplicaPhase.READY),
  };
}

/** Which devices an adopted replica has is not reported: the first ones are as good a guess as any. */
const devicesOf = (accelerators: number) =>
  Array.from({ length: Math.ceil(accelerators) }, (_, index) => ({
    index,
    share: Math.min(1, accelerators),
  }));
