// What differs between two applications, field by field, and whether running replicas are touched by it: only then is
// a new version needed; a change of limits or delays alone applies to the version that runs.
import type { Application, Deployment } from "./schema.ts";

export type Change =
  | { kind: "deploymentAdded"; deployment: string }
  | { kind: "deploymentRemoved"; deployment: string }
  | {
      kind: "changed";
      deployment: string;
      /** Path inside the deployment, e.g. `engine.dtype`. */
      path: string;
      /** As JSON; null when the field was absent. */
      before: string | null;
      after: string | null;
      /** Replicas must be exchanged for it to take effect. */
      needsNewReplicas: boolean;
    };

/** Parts that steer the platform around a replica; everything else is in the replica itself. */
const STEERING = ["autoscaling", "rollout", "admission", "drainTimeoutMs", "startTimeoutMs"];

/** Lists the changes from `before` to `after`, by deployment name, in a stable order. */
export function diffApplications(before: Application, after: Application): Change[] {
  const old = new Map(before.deployments.map((one) => [one.name, one]));
  const now = new Map(after.deployments.map((one) => [one.name, one]));
  const names = [...new Set([...old.keys(), ...now.keys()])].sort();
  return names.flatMap((name): Change[] => {
    const a = old.get(name);
    const b = now.get(name);
    if (a === undefined) return [{ kind: "deploymentAdded", deployment: name }];
    if (b === undefined) return [{ kind: "deploymentRemoved", deployment: name }];
    return diffDeployment(name, a, b);
  });
}

function diffDeployment(name: string, before: Deployment, after: Deployment): Change[] {
  const a = leaves(before, "");
  const b = leaves(after, "");
  return [...new Set([...a.keys(), ...b.keys()])]
    .sort()
    .filter((path) => a.get(path) !== b.get(path))
    .map((path) => ({
      kind: "changed",
      deployment: name,
      path,
      before: a.get(path) ?? null,
      after: b.get(path) ?? null,
      needsNewReplicas: !STEERING.includes(path.split(".")[0] ?? ""),
    }));
}

/** Every scalar, list or empty mapping by its path. Lists count as one value: their order has a meaning. */
function leaves(value: object, prefix: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, inner] of Object.entries(value)) {
    const path = prefix === "" ? key : `${prefix}.${key}`;
    if (typeof inner === "object" && inner !== null && !Array.isArray(inner)) {
      for (const [deeper, text] of leaves(inner, path)) found.set(deeper, text);
    } else if (inner !== undefined) {
      found.set(path, JSON.stringify(inner));
    }
  }
  return found;
}
