// From "this much traffic, so many replicas" to the actions that differ from what was ordered before. Traffic comes
// first: a version loses requests before it loses replicas.
import type { Lot } from "./exchange.ts";
import type { Ordered, RolloutAction, RolloutPlan } from "./types.ts";

/** What should hold now. A bound is null where the version does not have the deployment. */
export type Orders = {
  weightTo: number | null;
  bounds: { deployment: string; from: number | null; to: number | null }[];
};

/** The actions that turn what was ordered into what should hold. */
export function actionsBetween(before: Ordered, orders: Orders, plan: RolloutPlan): RolloutAction[] {
  const actions: RolloutAction[] = [];
  if (orders.weightTo !== null && orders.weightTo !== before.weightTo) {
    actions.push({ kind: "setTraffic", weights: weights(plan, orders.weightTo) });
  }
  for (const bound of orders.bounds) {
    const known = before.bounds.find((one) => one.deployment === bound.deployment);
    for (const [side, version] of [
      ["from", plan.from],
      ["to", plan.to],
    ] as const) {
      const replicas = bound[side];
      if (version === null || replicas === null || replicas === (known?.[side] ?? null)) continue;
      const { deployment } = bound;
      actions.push({ kind: "setBounds", version, deployment, replicasMin: replicas, replicasMax: replicas });
    }
  }
  return actions;
}

/** The last actions of a rollout: `winner` follows the load from now on, `loser` is not needed any more. */
export function closing(
  lots: readonly Lot[],
  plan: RolloutPlan,
  winner: "from" | "to",
  outcome: "done" | "rolledBack" | "failed",
  why: string,
): RolloutAction[] {
  const [kept, retired] = winner === "to" ? [plan.to, plan.from] : [plan.from, plan.to];
  const actions: RolloutAction[] = [];
  if (kept !== null) {
    actions.push({ kind: "setTraffic", weights: [{ version: kept, weight: 1 }] });
    for (const lot of lots) {
      if (lot[winner] !== null) actions.push({ kind: "clearBounds", version: kept, deployment: lot.name });
    }
  }
  if (retired !== null) actions.push({ kind: "retireVersion", version: retired });
  actions.push({ kind: "complete", outcome, why });
  return actions;
}

function weights(plan: RolloutPlan, weightTo: number): { version: string; weight: number }[] {
  if (plan.from === null) return [{ version: plan.to, weight: 1 }];
  return [
    { version: plan.from, weight: 1 - weightTo },
    { version: plan.to, weight: weightTo },
  ];
}
