// What was heard of replicas and requests: the world as a rollout observes it. Only in memory; documents bring it back
// after a restart, and the gates start over with what comes then.
import {
  GoneReason,
  type MessageShape,
  ReplicaPhase,
  type ReplicaStatusSchema,
  type RequestFinished,
  timestampMs,
  type WorkerLoadSampled,
} from "@pilotlight/contracts";
import {
  addDuration,
  noCounters,
  type ReplicaCounts,
  type RolloutObservation,
  type RolloutPlan,
  type VersionCounters,
} from "@pilotlight/policy";

type ReplicaStatus = MessageShape<typeof ReplicaStatusSchema>;
type Stage = keyof ReplicaCounts;
type SeenReplica = { version: number; deployment: string; stage: Stage };
type Failed = { replicaId: string; version: number; at: number; why: string };
type Heard = {
  replicas: Map<string, SeenReplica>;
  failures: Failed[];
  counters: Map<number, VersionCounters>;
  heardAt: Map<number, number>;
};

/** What the autoscaler said of a deployment last. */
export type AutoscalerWord = {
  /** Replicas that the load asks for, over all versions. */
  wanted: number;
  /** Of the bounds that it had obeyed. */
  generation: bigint;
  /** Places that replicas held then, by version; a version without an entry held none. */
  held: ReadonlyMap<string, number>;
};

/** Failures and versions remembered of one application (I10). */
const FAILURES_MAX = 256;
const VERSIONS_MAX = 16;

export type World = ReturnType<typeof createWorld>;

/** A world in which nothing was heard yet. */
export function createWorld() {
  const applications = new Map<string, Heard>();
  const of = (application: string): Heard => {
    const known = applications.get(application);
    if (known !== undefined) return known;
    const fresh: Heard = { replicas: new Map(), failures: [], counters: new Map(), heardAt: new Map() };
    applications.set(application, fresh);
    return fresh;
  };
  return {
    noteReplica(status: ReplicaStatus, now: number): void {
      const heard = of(status.application);
      if (status.phase === ReplicaPhase.GONE) noteGone(heard, status, now);
      else {
        heard.replicas.set(status.replicaId, {
          version: status.version,
          deployment: status.deployment,
          stage: stageOf(status.phase),
        });
        limited(heard.heardAt, status.version, now);
      }
    },
    noteWorker(sample: WorkerLoadSampled, now: number): void {
      limited(of(sample.application).heardAt, sample.version, now);
    },
    noteRequest(request: RequestFinished): void {
      if (request.version === 0) return; // it never reached a version
      const { counters } = of(request.application);
      limited(counters, request.version, count(counters.get(request.version) ?? noCounters, request));
    },
    forget: (application: string) => void applications.delete(application),
    /**
     * What the policy is shown. `since`: when the rollout began. `words`: of the autoscaler, by deployment. `generation`: of
     * the bounds that were set last; places held under older ones say nothing about what is taken now.
     */
    observe(
      application: string,
      plan: RolloutPlan,
      since: number,
      { words, generation }: { words: ReadonlyMap<string, AutoscalerWord>; generation: bigint },
      stop: RolloutObservation["stop"],
    ): RolloutObservation {
      const heard = of(application);
      const to = Number(plan.to);
      const from = plan.from === null ? null : Number(plan.from);
      const failures = heard.failures.filter((one) => one.version === to && one.at >= since);
      return {
        deployments: plan.deployments.map(({ name }) => {
          const word = words.get(name);
          return {
            name,
            wanted: word?.wanted ?? null,
            from: counts(heard, from, name),
            to: counts(heard, to, name),
            held: word?.generation === generation ? heldUnder(plan, word) : null,
          };
        }),
        counters: {
          from: from === null ? null : (heard.counters.get(from) ?? null),
          to: heard.counters.get(to) ?? null,
        },
        heardAt: {
          from: from === null ? null : (heard.heardAt.get(from) ?? null),
          to: heard.heardAt.get(to) ?? null,
        },
        crashes: failures.length,
        crashWhy: failures.at(-1)?.why ?? null,
        stop,
      };
    },
  };
}

function stageOf(phase: ReplicaPhase): Stage {
  if (phase === ReplicaPhase.READY) return "ready";
  return phase === ReplicaPhase.DRAINING ? "draining" : "starting";
}

/** A lost node is not the version's fault, nor is a drain that was asked for. */
function noteGone(heard: Heard, status: ReplicaStatus, now: number): void {
  heard.replicas.delete(status.replicaId);
  const failed = status.goneReason === GoneReason.CRASHED || status.goneReason === GoneReason.START_FAILED;
  if (!failed || heard.failures.some((one) => one.replicaId === status.replicaId)) return;
  const mark = status.marks.findLast(({ phase }) => phase === ReplicaPhase.GONE);
  heard.failures.push({
    replicaId: status.replicaId,
    version: status.version,
    at: mark?.at === undefined ? now : timestampMs(mark.at),
    why: status.failure?.message ?? "its process ended",
  });
  if (heard.failures.length > FAILURES_MAX) heard.failures.shift();
}

function counts(heard: Heard, version: number | null, deployment: string): ReplicaCounts {
  const total = { starting: 0, ready: 0, draining: 0 };
  for (const replica of heard.replicas.values())
    if (replica.version === version && replica.deployment === deployment) total[replica.stage]++;
  return total;
}

const heldUnder = ({ from, to }: RolloutPlan, { held }: AutoscalerWord) => ({
  from: (from === null ? undefined : held.get(from)) ?? 0,
  to: held.get(to) ?? 0,
});

/** Adds one request to a version's totals. What clients cancelled (499) or sent wrongly (4xx) is not its fault. */
function count(totals: VersionCounters, request: RequestFinished): VersionCounters {
  const failed = request.status >= 500;
  const answered = request.status < 400;
  const between = request.completionTokens - 1;
  return {
    requests: totals.requests + 1,
    errors: totals.errors + (failed ? 1 : 0),
    ttft: answered && request.ttftMs > 0 ? addDuration(totals.ttft, request.ttftMs) : totals.ttft,
    timePerOutputToken:
      answered && between > 0
        ? addDuration(totals.timePerOutputToken, (request.durationMs - request.ttftMs) / between)
        : totals.timePerOutputToken,
  };
}

/** Sets a version's value and forgets the lowest version beyond the limit. */
function limited<T>(map: Map<number, T>, version: number, value: T): void {
  map.set(version, value);
  if (map.size > VERSIONS_MAX) map.delete(Math.min(...map.keys()));
}
