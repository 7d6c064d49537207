// Whether two deployments compute the same answers, so that one may continue the other's stream from its tokens.
import type { DeploymentSpec } from "@pilotlight/contracts";

/** Same weights, same engine, same number format, same order of sums. Limits and resources do not matter. */
export function sameModel(a: DeploymentSpec | undefined, b: DeploymentSpec | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  return a.model?.source === b.model?.source && engineOf(a) === engineOf(b);
}

function engineOf({ engine }: DeploymentSpec): string {
  const kind = engine?.kind;
  if (kind?.case === "embedded") return `embedded ${kind.value.dtype} ${kind.value.tensorParallel || 1}`;
  return kind?.case === "process" ? `process ${kind.value.command.join("\0")}` : "none";
}
