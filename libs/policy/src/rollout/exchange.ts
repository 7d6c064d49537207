// The arithmetic of exchanging replicas between two versions with one spare accelerator, in either direction.
//
//   I3  A version's share of traffic is at most its share of the ready capacity that is needed, for every deployment.
//   I4  Accelerators in use are at most those of n replicas, plus the surge (at least one replica of each deployment).
//
// I4 holds however late the autoscaler acts, because it says when it does: a bound is raised only after the last orders
// were obeyed, and only into what is left beside the places that are held or may still be taken under the bounds. The
// autoscaler, for its part, starts nothing in a bounded version that holds as many places as its bound, draining ones
// included. So an accelerator is given to the new version only after the old replica on it is gone.
import type { Ordered, ReplicaCounts, RolloutDeployment, RolloutObservation } from "./types.ts";

/** One deployment during an exchange: the replicas of both versions and what was ordered for them last. */
export type Lot = {
  name: string;
  /** Replicas needed over both versions. */
  wanted: number;
  surge: number;
  from: LotSide | null;
  to: LotSide | null;
};

export type LotSide = ReplicaCounts & {
  cost: number;
  /** The bound that was ordered last. */
  ordered: number | null;
  /** Places that it holds by the autoscaler's rows; null: it has not obeyed yet; undefined: it does not report. */
  held: number | null | undefined;
};

export type Side = "from" | "to";

/** Sums of thirds and tenths are not exact. */
const EPSILON = 1e-9;

/** Joins the plan, the observation and what was ordered. */
export function makeLot(
  deployment: RolloutDeployment,
  wanted: number,
  seen: Pick<RolloutObservation["deployments"][number], "from" | "to" | "held">,
  ordered: Ordered["bounds"][number] | undefined,
): Lot {
  // Without accelerators on either side a replica is the unit.
  const onlyCpu = (deployment.from?.accelerators ?? 0) === 0 && (deployment.to?.accelerators ?? 0) === 0;
  const cost = (accelerators: number) => (onlyCpu ? 1 : accelerators);
  const side = (which: Side): LotSide | null => {
    const own = deployment[which];
    if (own === null) return null;
    return {
      ...seen[which],
      cost: cost(own.accelerators),
      ordered: ordered?.[which] ?? null,
      held: seen.held === null ? null : seen.held?.[which],
    };
  };
  return {
    name: deployment.name,
    wanted,
    surge: Math.max(1, deployment.surge),
    from: side("from"),
    to: side("to"),
  };
}

/** Replicas that take requests or will. */
const alive = (side: LotSide | null): number => (side === null ? 0 : side.starting + side.ready);
/** Replicas that hold their place. */
export const present = (side: LotSide | null): number =>
  side === null ? 0 : side.starting + side.ready + side.draining;

/** Whether no replica of a version is left, and none can come any more. */
export const isGone = (side: LotSide | null): boolean =>
  side === null ||
  (present(side) === 0 && side.ordered === 0 && (side.held === undefined || side.held === 0));

/**
 * The shares of traffic that the new version may have by I3: at least `lowest` (what the old one cannot carry any more),
 * at most `highest` (what the new one can carry already). Where deployments contradict each other, after crashes,
 * `lowest` is above `highest`; then nobody can carry everything and `clampWeight` spares the new version.
 */
export function trafficRange(lots: readonly Lot[]): { lowest: number; highest: number } {
  let lowest = 0;
  let highest = 1;
  for (const { wanted, from, to } of lots) {
    // Requests for a deployment that is going away have nowhere else to go: it sets no limit.
    if (to === null) continue;
    const oldReady = from?.ready ?? 0;
    const ready = oldReady + to.ready;
    if (ready === 0) {
      highest = from === null ? 0 : highest;
      continue;
    }
    const needed = from === null ? Math.max(1, wanted) : Math.min(Math.max(1, wanted), ready);
    highest = Math.min(highest, to.ready / needed);
    if (from !== null) lowest = Math.max(lowest, 1 - oldReady / needed);
  }
  return { lowest: Math.max(0, lowest), highest: Math.max(0, highest) };
}

/** The share nearest to `weight` that `trafficRange` allows; rounding alone is no reason to change it. */
export function clampWeight(weight: number, range: { lowest: number; highest: number }): number {
  if (weight >= range.lowest - EPSILON && weight <= range.highest + EPSILON) return weight;
  return Math.min(range.highest, Math.max(range.lowest, weight));
}

/** The share at which every ready replica, old or new, gets the same load: the least that shows a difference. */
export function evenWeight(lots: readonly Lot[]): number {
  const shared = lots.flatMap(({ from, to }) => (from !== null && to !== null ? [{ from, to }] : []));
  return Math.min(1, ...shared.map(({ from, to }) => to.ready / Math.max(1, from.ready + to.ready)));
}

/** The fewest replicas of the losing version that carry its remaining share of traffic. */
export function losingBound(lot: Lot, loser: Side, losingWeight: number): number {
  const gainer: Side = loser === "from" ? "to" : "from";
  // Nobody else answers for a deployment that only the losing version has: it stays until the traffic is gone.
  if (lot[gainer] === null) return losingWeight > 0 ? lot.wanted : 0;
  return Math.max(0, Math.ceil(losingWeight * lot.wanted - EPSILON));
}

/**
 * The most replicas of one version, up to `most`, that fit beside what the other one holds or may still take (I4).
 * `otherNext`: the other's bound from now on.
 */
export function gainingBound(lot: Lot, gainer: Side, most: number, otherNext: number): number {
  const own = lot[gainer];
  const other = lot[gainer === "from" ? "to" : "from"];
  if (own === null) return 0;
  if (other === null) return most;
  const before = own.ordered ?? alive(own);
  if (own.held === null || other.held === null) return Math.min(most, before);
  const roomBeside = (replicas: number) => {
    const budget = lot.wanted * Math.max(own.cost, other.cost) + lot.surge * own.cost;
    return own.cost === 0
      ? most
      : Math.max(0, Math.floor((budget - replicas * other.cost) / own.cost + EPSILON));
  };
  // Up into what is free now; down, when n fell, to what will be free once the other side has obeyed.
  const free = roomBeside(Math.max(present(other), other.ordered ?? 0, other.held ?? 0));
  const later = roomBeside(otherNext);
  return Math.min(most, Math.max(free, Math.min(before, later)));
}
