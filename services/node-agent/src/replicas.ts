// The replicas of this node: what is wanted here against what is here.
//   N1. What the replicas occupy never exceeds what the node has: an assignment that does not fit is refused.
//   N2. An order that comes twice, or after its replica is gone, changes nothing: gone replicas are remembered.
import { randomBytes, timingSafeEqual } from "node:crypto";
import type { Backend } from "@pilotlight/compute";
import type { ReplicaAssignment } from "@pilotlight/contracts";
import { PlatformError, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import { placeReplica, type Replica, refuseReplica } from "./domain/replica.ts";
import { misfit, type NodeCapacity } from "./domain/resources.ts";
import { ReplicaRunner, type RunnerPorts } from "./replica-runner.ts";
import type { ReplicaFiles } from "./store/replica-files.ts";

const TOKEN_BYTES = 24;

export type ReplicasOptions = {
  capacity: NodeCapacity;
  files: ReplicaFiles;
  ports: RunnerPorts;
};

export class Replicas {
  readonly #runners = new Map<string, ReplicaRunner>();
  readonly #options: ReplicasOptions;
  readonly #log = logger("replicas");

  constructor(options: ReplicasOptions) {
    this.#options = options;
  }

  /** Takes over what an earlier agent left: live replicas go on, places that nobody holds are swept. */
  async open(): Promise<void> {
    const { files, ports } = this.#options;
    for (const replica of await files.load()) {
      this.#runners.set(replica.assignment.replicaId, new ReplicaRunner(replica, ports));
    }
    await this.#sweep(ports.backend);
    for (const runner of this.#runners.values()) {
      const { state } = runner.replica;
      if (state.kind !== "gone" || !state.announced) runner.resume();
    }
  }

  /** Takes an assignment, or refuses it: then it is gone with the reason. Resolves when that is saved. */
  async accept(assignment: ReplicaAssignment): Promise<void> {
    const { replicaId } = assignment;
    if (this.#runners.has(replicaId)) return;
    const now = Date.now();
    const why = misfit(this.#options.capacity, this.#held(), assignment);
    const replica =
      why === undefined
        ? placeReplica(assignment, randomBytes(TOKEN_BYTES).toString("base64url"), now)
        : refuseReplica(
            assignment,
            {
              code: "resourceExhausted",
              message: `the replica does not fit on node ${assignment.nodeId}: ${why}`,
              remedy: "Place it on another node, or lower the deployment's resources.",
            },
            now,
          );
    const runner = new ReplicaRunner(replica, this.#options.ports);
    this.#runners.set(replicaId, runner);
    try {
      await this.#options.files.save(replica);
    } catch (error) {
      this.#runners.delete(replicaId);
      throw error;
    }
    this.#log.info(why === undefined ? "replica accepted" : "replica refused", {
      replicaId,
      ...(why === undefined ? {} : { why }),
    });
    runner.resume();
  }

  /** Tells a replica to drain and go. One that is not known is gone already. */
  async drain(replicaId: string, drainTimeoutMs: number, reason: string): Promise<void> {
    const runner = this.#runners.get(replicaId);
    if (runner === undefined) {
      this.#log.warn("an unknown replica is not wanted", { replicaId });
      return;
    }
    this.#log.info("replica is not wanted any more", { replicaId, drainTimeoutMs, reason });
    const fallbackMs = runner.replica.assignment.deployment?.drainTimeoutMs ?? 0;
    await runner.send({
      kind: "unwanted",
      drainTimeoutMs: drainTimeoutMs === 0 ? fallbackMs : drainTimeoutMs,
    });
  }

  /** The runner of a worker that proves to be the one that was started. */
  authenticate(replicaId: string, token: string): ReplicaRunner {
    const runner = this.#runners.get(replicaId);
    const expected = runner?.replica.token ?? "";
    if (runner === undefined || expected === "" || !sameSecret(expected, token)) {
      throw new PlatformError(
        "unauthenticated",
        `no replica '${replicaId}' was started here with that token`,
        {
          field: "token",
          remedy: "Send REPLICA_TOKEN as it was given to the process.",
        },
      );
    }
    return runner;
  }

  has(replicaId: string): boolean {
    return this.#runners.has(replicaId);
  }

  /** Every replica, gone ones that are still remembered included. */
  list(): Replica[] {
    return [...this.#runners.values()].map((runner) => runner.replica);
  }

  /** The last word about a gone replica is on the bus. */
  async announced(replicaId: string): Promise<void> {
    await this.#runners.get(replicaId)?.send({ kind: "announced" });
  }

  /** Forgets replicas that have been gone for longer than `keepMs`. */
  async forgetGone(keepMs: number, now: number): Promise<void> {
    for (const [replicaId, runner] of this.#runners) {
      const { state } = runner.replica;
      if (state.kind !== "gone" || !state.announced || now - state.at < keepMs) continue;
      await this.#options.files.remove(replicaId);
      this.#runners.delete(replicaId);
    }
  }

  /** Drains every replica and resolves when all are gone. */
  async drainAll(drainTimeoutMs: number): Promise<void> {
    const live = [...this.#runners.values()].filter((runner) => runner.replica.state.kind !== "gone");
    await Promise.all(live.map((runner) => runner.send({ kind: "unwanted", drainTimeoutMs })));
    await Promise.all(live.map((runner) => runner.whenGone()));
  }

  /** Leaves everything as it is, for the next agent. */
  async close(): Promise<void> {
    await Promise.all([...this.#runners.values()].map((runner) => runner.close()));
  }

  #held(): ReplicaAssignment[] {
    return this.list()
      .filter(({ state }) => state.kind !== "gone")
      .map(({ assignment }) => assignment);
  }

  /** Ends processes and unmounts images of places that no live replica holds (a crash between two acts, a lost file). */
  async #sweep(backend: Backend): Promise<void> {
    for (const place of await backend.places()) {
      const replica = this.#runners.get(place)?.replica;
      if (replica !== undefined && replica.state.kind !== "gone") continue;
      try {
        await backend.release(place);
      } catch (error) {
        this.#log.error("a left-over place cannot be released", { place, error: toPlatformError(error) });
      }
    }
  }
}

function sameSecret(expected: string, given: string): boolean {
  const [a, b] = [Buffer.from(expected), Buffer.from(given)];
  return a.length === b.length && timingSafeEqual(a, b);
}
