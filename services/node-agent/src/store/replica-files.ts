// The agent's memory: one JSON file a replica, replaced whole and atomically before the agent acts on it.
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { fromJson, type JsonValue, toJson } from "@bufbuild/protobuf";
import { ReplicaAssignmentSchema, ReplicaPhase } from "@pilotlight/contracts";
import { ERROR_CODES, type ErrorCode, toPlatformError } from "@pilotlight/errors";
import { logger } from "@pilotlight/telemetry";
import * as z from "zod";
import type { Replica } from "../domain/replica.ts";

const FORMAT = 1;
const SUFFIX = ".json";

const failure = z.object({
  code: z.enum(Object.keys(ERROR_CODES) as [ErrorCode, ...ErrorCode[]]),
  message: z.string(),
  remedy: z.string(),
});
const outcome = z.object({
  reason: z.enum(["drained", "crashed", "startFailed"]),
  failure: failure.optional(),
});
const processIdentity = z.object({ pid: z.int().positive(), startTicks: z.int(), bootId: z.string() });
const image = z.object({
  reference: z.string(),
  imageId: z.string(),
  manifestDigest: z.string(),
  pulled: z.boolean().optional(),
});
const phase = z.enum(ReplicaPhase);
const mark = z.object({ phase, at: z.number() });
const state = z.discriminatedUnion("kind", [
  z.object({ kind: z.literal("ensuringImage") }),
  z.object({ kind: z.literal("mounting"), image }),
  z.object({ kind: z.literal("starting"), image }),
  z.object({ kind: z.literal("running"), process: processIdentity }),
  z.object({ kind: z.literal("draining"), process: processIdentity, deadlineAt: z.number() }),
  z.object({
    kind: z.literal("stopping"),
    process: processIdentity,
    signal: z.enum(["SIGTERM", "SIGKILL"]),
    killAt: z.number(),
    outcome,
  }),
  z.object({ kind: z.literal("releasing"), outcome }),
  z.object({ kind: z.literal("gone"), outcome, at: z.number(), announced: z.boolean() }),
]);
const file = z.object({
  format: z.literal(FORMAT),
  assignment: z.unknown(),
  token: z.string(),
  placedAt: z.number(),
  revision: z.number(),
  marks: z.array(mark),
  worker: z
    .object({
      phase,
      marks: z.array(mark),
      endpoint: z.string(),
      inFlightMax: z.number(),
      failure: failure.optional(),
    })
    .optional(),
  compileCache: z
    .object({
      key: z.string(),
      /** Empty in files of agents that did not keep it. */
      manifestDigest: z.string().default(""),
      outcome: z.enum(["hit", "held", "miss", "broken"]),
      bytes: z.number(),
      durationMs: z.number(),
      savedBytes: z.number(),
    })
    .optional(),
  trouble: failure.optional(),
  state,
});

export type ReplicaFiles = {
  /** Every replica that was saved. A file that cannot be understood is set aside and reported. */
  load(): Promise<Replica[]>;
  save(replica: Replica): Promise<void>;
  remove(replicaId: string): Promise<void>;
};

/** Keeps replicas as files of one directory. */
export async function openReplicaFiles(directory: string): Promise<ReplicaFiles> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const path = (replicaId: string) => join(directory, `${replicaId}${SUFFIX}`);
  return {
    async load() {
      const replicas: Replica[] = [];
      for (const name of await readdir(directory)) {
        if (!name.endsWith(SUFFIX)) continue;
        try {
          replicas.push(decode(await readFile(join(directory, name), "utf8")));
        } catch (thrown) {
          logger("replicas").error("a replica's file is not readable; it is set aside", {
            file: join(directory, name),
            error: toPlatformError(thrown),
          });
          await rename(join(directory, name), join(directory, `${name}.unreadable`));
        }
      }
      return replicas;
    },
    async save(replica) {
      const temporary = join(directory, `${replica.assignment.replicaId}.new`);
      const handle = await open(temporary, "w", 0o600); // it holds the worker's token
      try {
        await handle.writeFile(encode(replica));
        await handle.datasync();
      } finally {
        await handle.close();
      }
      await rename(temporary, path(replica.assignment.replicaId));
    },
    async remove(replicaId) {
      await rm(path(replicaId), { force: true });
    },
  };
}

function encode({ assignment, ...rest }: Replica): string {
  return JSON.stringify({ format: FORMAT, assignment: toJson(ReplicaAssignmentSchema, assignment), ...rest });
}

function decode(text: string): Replica {
  const { format: _, assignment, ...rest } = file.parse(JSON.parse(text));
  return {
    ...rest,
    assignment: fromJson(ReplicaAssignmentSchema, assignment as JsonValue, { ignoreUnknownFields: true }),
  };
}
