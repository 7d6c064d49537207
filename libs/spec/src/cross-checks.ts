// Rules between fields. They run even where a single field is wrong, so that one pass reports everything: a value
// may therefore be anything, and a rule whose fields are missing or of another type simply does not apply.
import type * as z from "zod";

type Path = readonly (string | number)[];

/** Checks one deployment. Issues carry a remedy in `params.remedy`. */
export function checkDeployment(value: unknown, context: z.RefinementCtx): void {
  const report = (path: Path, message: string, remedy: string) =>
    context.addIssue({ code: "custom", path: [...path], message, params: { remedy } });

  const min = numberAt(value, ["autoscaling", "replicasMin"]);
  const max = numberAt(value, ["autoscaling", "replicasMax"]);
  if (min !== null && max !== null && min > max) {
    report(
      ["autoscaling", "replicasMin"],
      `is ${min}, above replicasMax ${max}`,
      "Lower replicasMin or raise replicasMax.",
    );
  }
  const kind = at(value, ["engine", "kind"]);
  if (kind === "embedded" && at(value, ["model"]) === undefined) {
    report(
      ["engine", "kind"],
      "the embedded engine needs a model",
      "Add `model:` with source, name and task, or use `kind: process`.",
    );
  }
  const kvTokens = numberAt(value, ["engine", "kvTokensMax"]);
  const contextTokens = numberAt(value, ["engine", "contextTokensMax"]);
  if (kind === "embedded" && kvTokens !== null && contextTokens !== null && kvTokens < contextTokens) {
    report(
      ["engine", "kvTokensMax"],
      `is ${kvTokens}, below contextTokensMax ${contextTokens}: the longest sequence would not fit`,
      "Raise kvTokensMax or lower contextTokensMax.",
    );
  }
  const ranks = numberAt(value, ["engine", "tensorParallel"]);
  if (kind === "embedded" && ranks !== null && ranks > 1 && at(value, ["model", "task"]) === "embeddings") {
    report(
      ["engine", "tensorParallel"],
      `is ${ranks}, and models that make embeddings are not divided`,
      "Leave tensorParallel out.",
    );
  }
  const readyTimeout = numberAt(value, ["engine", "readyTimeoutMs"]);
  const startTimeout = numberAt(value, ["startTimeoutMs"]);
  if (kind === "process" && readyTimeout !== null && startTimeout !== null && readyTimeout > startTimeout) {
    report(
      ["engine", "readyTimeoutMs"],
      `is ${readyTimeout}, above the replica's startTimeoutMs ${startTimeout}`,
      "Lower readyTimeoutMs or raise startTimeoutMs.",
    );
  }
}

/** Checks what must be unique among the deployments of an application. */
export function checkApplication(value: unknown, context: z.RefinementCtx): void {
  const deployments = at(value, ["deployments"]);
  if (!Array.isArray(deployments)) return;
  for (const [path, what] of [
    [["name"], "name"],
    [["model", "name"], "model name"],
  ] as const) {
    const seen = new Map<string, number>();
    deployments.forEach((deployment: unknown, index) => {
      const name = at(deployment, path);
      if (typeof name !== "string") return;
      const first = seen.get(name);
      if (first === undefined) {
        seen.set(name, index);
        return;
      }
      context.addIssue({
        code: "custom",
        path: ["deployments", index, ...path],
        message: `"${name}" is also the ${what} of deployments[${first}]`,
        params: { remedy: `Give each deployment a ${what} of its own.` },
      });
    });
  }
}

function at(value: unknown, path: Path): unknown {
  let current = value;
  for (const key of path) {
    if (typeof current !== "object" || current === null || !Object.hasOwn(current, key)) return undefined;
    current = (current as Record<string | number, unknown>)[key];
  }
  return current;
}

function numberAt(value: unknown, path: Path): number | null {
  const found = at(value, path);
  return typeof found === "number" ? found : null;
}
