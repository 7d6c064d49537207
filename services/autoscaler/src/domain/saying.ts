// What is said about a decision, and whether it is worth saying.
import type { AutoscalingDecision } from "@pilotlight/policy";

/** What was said last, by version. */
export type Said = Record<string, { wanted: number; demanded: number; waiting: string }>;

/** What there is to say about each version. `waiting`: why replicas have no place yet, by version. */
export function sayingOf(decision: AutoscalingDecision, waiting: ReadonlyMap<number, string>): Said {
  return Object.fromEntries(
    decision.explain.allocations.map(({ version, replicas }) => [
      version,
      { wanted: replicas, demanded: decision.explain.target, waiting: waiting.get(Number(version)) ?? "" },
    ]),
  );
}

/** Versions about which something new is to be said. */
export const newsBetween = (before: Said, now: Said): string[] =>
  Object.entries(now)
    .filter(([version, one]) => {
      const known = before[version];
      return (
        known === undefined ||
        known.wanted !== one.wanted ||
        known.demanded !== one.demanded ||
        known.waiting !== one.waiting
      );
    })
    .map(([version]) => version);

/** The decision in a line for people. */
export function reasonText({ reason, explain }: AutoscalingDecision, waiting: string): string {
  const demand = explain.demand === null ? "load unknown" : `load ${Math.round(explain.demand * 10) / 10}`;
  const why = `${reason}: ${demand}, ${explain.wanted} wanted, target ${explain.target}`;
  return waiting === "" ? why : `${why}; no place: ${waiting}`;
}
