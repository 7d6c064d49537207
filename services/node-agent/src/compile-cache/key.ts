// Which compile cache a replica may have: one of the same application, made by the same engine from the same model, in the same
// settings, on the same kind of machine. Replicas of other applications never share one: what lies in it is run.
import { createHash } from "node:crypto";
import type { ImageToMount } from "@pilotlight/compute";
import { EngineSpecSchema, type ReplicaAssignment, toJson } from "@pilotlight/contracts";

/** What the machine contributes: compiled code fits only its like. */
export type MachineKind = { acceleratorKind: string; cpu: string };

/** Changes when what is in an archive changes its meaning. */
const FORMAT = 1;

/** Hex SHA-256; undefined for a deployment that keeps no compile cache. The engine's version is the image's digest. */
export function compileCacheKey(
  { application, deployment }: ReplicaAssignment,
  image: ImageToMount,
  machine: MachineKind,
): string | undefined {
  const cache = deployment?.compileCache;
  if (deployment === undefined || cache === undefined || cache.variables.length === 0) return undefined;
  const identity = [
    FORMAT,
    application,
    deployment.name,
    image.manifestDigest,
    deployment.model?.source ?? "",
    deployment.engine === undefined ? null : toJson(EngineSpecSchema, deployment.engine),
    Object.entries(deployment.environment).sort(([a], [b]) => (a < b ? -1 : 1)),
    [...cache.variables].sort(),
    cache.key,
    machine.acceleratorKind,
    machine.cpu,
  ];
  return createHash("sha256").update(JSON.stringify(identity)).digest("hex");
}
