// Which compile cache a replica may have: one of the same application, made by the same engine from the same model, in the same
// settings, on the same kind of machine. Replicas of other applications never share one: what lies in it is run.
import { hash } from "node:crypto";
import { type DeploymentSpec, EngineSpecSchema, toJson } from "@pilotlight/contracts";

/** What the machine contributes: compiled code fits only its like. */
export type MachineKind = { acceleratorKind: string; cpu: string };

/** Changes when what is in an archive changes its meaning. */
const FORMAT = 2;

/**
 * What a version says of a cache, as hex SHA-256: everything but the image, whose reference may lead elsewhere tomorrow, and the
 * machine. Undefined for a deployment that keeps none.
 */
export function specificationOf(application: string, deployment: DeploymentSpec): string | undefined {
  const { compileCache: cache, engine } = deployment;
  if (cache === undefined || cache.variables.length === 0) return undefined;
  const said = [
    FORMAT,
    application,
    deployment.name,
    deployment.model?.source ?? "",
    engine === undefined ? null : toJson(EngineSpecSchema, engine),
    Object.entries(deployment.environment).sort(([a], [b]) => (a < b ? -1 : 1)),
    [...cache.variables].sort(),
    cache.key,
  ];
  return hash("sha256", JSON.stringify(said));
}

/** The cache's key, hex SHA-256. The engine's version is the image's digest. */
export const compileCacheKey = (
  specification: string,
  manifestDigest: string,
  machine: MachineKind,
): string =>
  hash("sha256", JSON.stringify([specification, manifestDigest, machine.acceleratorKind, machine.cpu]));
