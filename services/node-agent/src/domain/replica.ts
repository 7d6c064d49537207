// One replica on this node: what it is, where it stands, and how it moves. Pure: the caller persists each new value before
// it acts on it, so an agent that was killed continues from the file.
//
//   ensuringImage → mounting → starting → running → draining → stopping → releasing → gone
//
//   R1. States only move to the right; any state before `releasing` may jump ahead, never back.
//   R2. Phases only move forward and the first time of each phase counts, however often a worker repeats itself.
//   R3. What a replica occupies is free only when it is `gone`: no process, no mount.
//   R4. A replica that may have open streams is drained before it is stopped, and not stopped before its streams end or
//       its deadline passes (I2).
import type { ImageToMount, ProcessEnd, ProcessIdentity } from "@pilotlight/compute";
import { type ReplicaAssignment, ReplicaPhase } from "@pilotlight/contracts";
import type { ErrorCode } from "@pilotlight/errors";

/** What went wrong, for people and programs. */
export type Failure = { code: ErrorCode; message: string; remedy: string };

/** When a phase began, epoch ms. */
export type Mark = { phase: ReplicaPhase; at: number };

/** What the worker last said of itself. */
export type WorkerReport = {
  phase: ReplicaPhase;
  marks: readonly Mark[];
  endpoint: string;
  inFlightMax: number;
  /** Set when the worker cannot go on. */
  failure?: Failure | undefined;
};

/** How the start found its version's compile cache. */
export type CompileCache = {
  key: string;
  /** Of the image that it was compiled with. */
  manifestDigest: string;
  outcome: "hit" | "held" | "miss" | "broken";
  /** Restored, as files. */
  bytes: number;
  durationMs: number;
  /** Put into the bucket after this start. */
  savedBytes: number;
};

/** Why a replica ends. */
export type Outcome = { reason: "drained" | "crashed" | "startFailed"; failure?: Failure | undefined };

export type ReplicaState =
  | { kind: "ensuringImage" }
  | { kind: "mounting"; image: ImageToMount }
  | { kind: "starting"; image: ImageToMount }
  | { kind: "running"; process: ProcessIdentity }
  | { kind: "draining"; process: ProcessIdentity; deadlineAt: number }
  | {
      kind: "stopping";
      process: ProcessIdentity;
      signal: "SIGTERM" | "SIGKILL";
      killAt: number;
      outcome: Outcome;
    }
  | { kind: "releasing"; outcome: Outcome }
  /** `announced`: the last word about it is on the bus. */
  | { kind: "gone"; outcome: Outcome; at: number; announced: boolean };

export type Replica = {
  assignment: ReplicaAssignment;
  /** Proves that a worker is the one that was started for this replica. */
  token: string;
  placedAt: number;
  /** Grows with every change that is saved. */
  revision: number;
  marks: readonly Mark[];
  worker?: WorkerReport | undefined;
  compileCache?: CompileCache | undefined;
  /** What hinders a start that is still being tried. */
  trouble?: Failure | undefined;
  state: ReplicaState;
};

export type ReplicaInput =
  | { kind: "imageReady"; image: ImageToMount }
  | { kind: "mounted" }
  | { kind: "started"; process: ProcessIdentity }
  /** What is known of its compile cache has changed. */
  | { kind: "compileCache"; cache: CompileCache }
  /** An act failed but is tried again. */
  | { kind: "hindered"; failure: Failure }
  /** An act failed for good. */
  | { kind: "failed"; failure: Failure }
  | { kind: "reported"; report: WorkerReport }
  | { kind: "ended"; end: ProcessEnd; lastLines: string }
  | { kind: "unwanted"; drainTimeoutMs: number }
  | { kind: "released" }
  | { kind: "announced" }
  | { kind: "tick" };

export type ReplicaLimits = {
  /** After SIGTERM; then SIGKILL. */
  killTimeoutMs: number;
  /** What a draining worker may take to exit after its deadline has cut the last streams. */
  drainGraceMs: number;
};

/** A new replica, accepted at `now`. */
export function placeReplica(assignment: ReplicaAssignment, token: string, now: number): Replica {
  const decided = assignment.decidedAt;
  const decidedAt =
    decided === undefined ? now : Number(decided.seconds) * 1000 + Math.floor(decided.nanos / 1e6);
  return {
    assignment,
    token,
    placedAt: now,
    revision: 0,
    marks: [
      { phase: ReplicaPhase.DECIDED, at: Math.min(decidedAt, now) },
      { phase: ReplicaPhase.PLACED, at: now },
    ],
    state: { kind: "ensuringImage" },
  };
}

/** A replica that this node cannot take: it is gone at once. */
export function refuseReplica(assignment: ReplicaAssignment, failure: Failure, now: number): Replica {
  return goneAt(placeReplica(assignment, "", now), { reason: "startFailed", failure }, now);
}

/** Whether the replica was ever ready: then it may carry streams. */
export const wasReady = (replica: Replica): boolean => phaseOf(replica) >= ReplicaPhase.READY;

/** The furthest phase reached. */
export const phaseOf = (replica: Replica): ReplicaPhase =>
  replica.marks.reduce<ReplicaPhase>(
    (furthest, { phase }) => Math.max(furthest, phase),
    ReplicaPhase.DECIDED,
  );

/** When the replica must be looked at again although nothing happened; undefined: never. */
export function wakeAt(replica: Replica, limits: ReplicaLimits): number | undefined {
  const { state } = replica;
  switch (state.kind) {
    case "ensuringImage":
    case "mounting":
    case "starting":
      return startDeadline(replica);
    case "running":
      return wasReady(replica) ? undefined : startDeadline(replica);
    case "draining":
      return state.deadlineAt + limits.drainGraceMs;
    case "stopping":
      return state.signal === "SIGKILL" ? undefined : state.killAt;
    case "releasing":
    case "gone":
      return undefined;
    default:
      return state satisfies never;
  }
}

const startDeadline = (replica: Replica): number =>
  replica.placedAt + (replica.assignment.deployment?.startTimeoutMs ?? 0);

/** The replica after an input. The same value when the input changes nothing. */
export function step(replica: Replica, input: ReplicaInput, now: number, limits: ReplicaLimits): Replica {
  const { state } = replica;
  switch (input.kind) {
    case "imageReady":
      return state.kind === "ensuringImage"
        ? { ...replica, trouble: undefined, state: { kind: "mounting", image: input.image } }
        : replica;
    case "mounted":
      if (state.kind !== "mounting") return replica;
      return {
        ...replica,
        trouble: undefined,
        marks: withMarks(replica.marks, [{ phase: ReplicaPhase.IMAGE_USABLE, at: now }]),
        state: { kind: "starting", image: state.image },
      };
    case "started":
      if (state.kind !== "starting") return replica;
      return onReport(
        { ...replica, trouble: undefined, state: { kind: "running", process: input.process } },
        now,
        limits,
      );
    case "compileCache":
      return state.kind === "gone" ? replica : { ...replica, compileCache: input.cache };
    case "hindered":
      return canStillStart(state) && replica.trouble?.message !== input.failure.message
        ? { ...replica, trouble: input.failure }
        : replica;
    case "failed":
      return canStillStart(state)
        ? {
            ...replica,
            state: { kind: "releasing", outcome: { reason: "startFailed", failure: input.failure } },
          }
        : replica;
    case "reported":
      return onReport(withReport(replica, input.report, now), now, limits);
    case "ended":
      return onEnded(replica, input.end, input.lastLines);
    case "unwanted":
      return onUnwanted(replica, input.drainTimeoutMs, now, limits);
    case "released":
      return state.kind === "releasing" ? goneAt(replica, state.outcome, now) : replica;
    case "announced":
      return state.kind === "gone" && !state.announced
        ? { ...replica, state: { ...state, announced: true } }
        : replica;
    case "tick":
      return onTick(replica, now, limits);
    default:
      return input satisfies never;
  }
}

const canStillStart = (state: ReplicaState): boolean =>
  state.kind === "ensuringImage" || state.kind === "mounting" || state.kind === "starting";

/** Only what changes is kept, so that a worker that repeats itself causes no writes. */
function withReport(replica: Replica, report: WorkerReport, now: number): Replica {
  if (replica.state.kind === "releasing" || replica.state.kind === "gone") return replica;
  const told = [...report.marks, { phase: report.phase, at: now }].filter(({ phase }) =>
    isWorkersPhase(phase),
  );
  const marks = withMarks(replica.marks, told);
  const { phase, endpoint, inFlightMax, failure } = report;
  const worker: WorkerReport = { phase, marks: [], endpoint, inFlightMax, failure };
  const before = replica.worker;
  const unchanged =
    marks === replica.marks &&
    before !== undefined &&
    before.phase === phase &&
    before.endpoint === endpoint &&
    before.inFlightMax === inFlightMax &&
    before.failure?.message === failure?.message;
  return unchanged ? replica : { ...replica, marks, worker };
}

/** The phases of which the worker knows the time; the others are the agent's. */
const isWorkersPhase = (phase: ReplicaPhase): boolean =>
  phase >= ReplicaPhase.PROCESS_UP && phase <= ReplicaPhase.READY;

/** A worker that cannot go on is stopped, whether it ends itself or not. */
function onReport(replica: Replica, now: number, limits: ReplicaLimits): Replica {
  const failure = replica.worker?.failure;
  if (replica.state.kind !== "running" || failure === undefined) return replica;
  const outcome: Outcome = { reason: wasReady(replica) ? "crashed" : "startFailed", failure };
  return stopping(replica, replica.state.process, outcome, now, limits);
}

function onEnded(replica: Replica, end: ProcessEnd, lastLines: string): Replica {
  const { state } = replica;
  switch (state.kind) {
    case "running": {
      // Told to drain by somebody else (SIGTERM by hand), and did.
      const leftInPeace =
        replica.worker?.phase === ReplicaPhase.DRAINING && end.kind === "exited" && end.code === 0;
      if (leftInPeace)
        return {
          ...replica,
          state: { kind: "releasing", outcome: { reason: "drained", failure: undefined } },
        };
      const failure = replica.worker?.failure ?? endFailure(replica, end, lastLines);
      const reason = wasReady(replica) ? "crashed" : "startFailed";
      return { ...replica, state: { kind: "releasing", outcome: { reason, failure } } };
    }
    case "draining":
      return { ...replica, state: { kind: "releasing", outcome: { reason: "drained", failure: undefined } } };
    case "stopping":
      return { ...replica, state: { kind: "releasing", outcome: state.outcome } };
    default:
      return replica;
  }
}

function onUnwanted(replica: Replica, drainTimeoutMs: number, now: number, limits: ReplicaLimits): Replica {
  const { state } = replica;
  const drained: Outcome = { reason: "drained", failure: undefined };
  switch (state.kind) {
    case "ensuringImage":
    case "mounting":
    case "starting":
      return { ...replica, state: { kind: "releasing", outcome: drained } };
    case "running": {
      const marks = withMarks(replica.marks, [{ phase: ReplicaPhase.DRAINING, at: now }]);
      if (!wasReady(replica)) return stopping({ ...replica, marks }, state.process, drained, now, limits);
      return {
        ...replica,
        marks,
        state: { kind: "draining", process: state.process, deadlineAt: now + drainTimeoutMs },
      };
    }
    case "draining": {
      const deadlineAt = Math.min(state.deadlineAt, now + drainTimeoutMs);
      return deadlineAt === state.deadlineAt ? replica : { ...replica, state: { ...state, deadlineAt } };
    }
    case "stopping":
    case "releasing":
    case "gone":
      return replica;
    default:
      return state satisfies never;
  }
}

function onTick(replica: Replica, now: number, limits: ReplicaLimits): Replica {
  const due = wakeAt(replica, limits);
  if (due === undefined || now < due) return replica;
  const { state } = replica;
  switch (state.kind) {
    case "ensuringImage":
    case "mounting":
    case "starting":
      return { ...replica, state: { kind: "releasing", outcome: lateStart(replica) } };
    case "running":
      return stopping(replica, state.process, lateStart(replica), now, limits);
    case "draining":
      return stopping(replica, state.process, { reason: "drained", failure: undefined }, now, limits);
    case "stopping":
      return { ...replica, state: { ...state, signal: "SIGKILL" } };
    default:
      return replica;
  }
}

function stopping(
  replica: Replica,
  process: ProcessIdentity,
  outcome: Outcome,
  now: number,
  limits: ReplicaLimits,
): Replica {
  const killAt = now + limits.killTimeoutMs;
  return { ...replica, state: { kind: "stopping", process, signal: "SIGTERM", killAt, outcome } };
}

function goneAt(replica: Replica, outcome: Outcome, now: number): Replica {
  return {
    ...replica,
    trouble: undefined,
    marks: withMarks(replica.marks, [{ phase: ReplicaPhase.GONE, at: now }]),
    state: { kind: "gone", outcome, at: now, announced: false },
  };
}

/** Adds phases that are not there yet (R2), in order. The same array when there is nothing to add. */
function withMarks(marks: readonly Mark[], more: readonly Mark[]): readonly Mark[] {
  const known = new Set(marks.map(({ phase }) => phase));
  const fresh = more.filter(({ phase }) => !known.has(phase) && known.add(phase));
  return fresh.length === 0 ? marks : [...marks, ...fresh].sort((a, b) => a.phase - b.phase);
}

function lateStart(replica: Replica): Outcome {
  const seconds = Math.round((replica.assignment.deployment?.startTimeoutMs ?? 0) / 1000);
  const because = replica.trouble === undefined ? "" : `; last trouble: ${replica.trouble.message}`;
  return {
    reason: "startFailed",
    failure: {
      code: "deadlineExceeded",
      message: `not ready within ${seconds} s; it was ${WAITING_FOR[replica.state.kind]}${because}`,
      remedy:
        replica.trouble?.remedy || "Look at the replica's logs, or raise the deployment's start timeout.",
    },
  };
}

const WAITING_FOR: Record<ReplicaState["kind"], string> = {
  ensuringImage: "waiting for the image to be converted",
  mounting: "mounting the image",
  starting: "starting the process",
  running: "waiting for the worker to get ready",
  draining: "draining",
  stopping: "stopping",
  releasing: "being released",
  gone: "gone",
};

function endFailure(replica: Replica, end: ProcessEnd, lastLines: string): Failure {
  const how = {
    exited: () => `exited with code ${(end as { code: number }).code}`,
    killed: () => `was killed by ${(end as { signal: string }).signal}`,
    unknown: () => "ended while the node agent was away",
  }[end.kind]();
  const outOfMemory = end.kind === "killed" && end.signal === "SIGKILL";
  const said = lastLines === "" ? "" : `; its last lines:\n${lastLines}`;
  return {
    code: outOfMemory ? "resourceExhausted" : "internal",
    message: `the worker process ${how}${wasReady(replica) ? "" : " before it was ready"}${said}`,
    remedy: outOfMemory
      ? "The kernel kills what needs more memory than there is: raise the deployment's memory, or use a smaller model."
      : `See the lines of replica ${replica.assignment.replicaId} in the logs.`,
  };
}
