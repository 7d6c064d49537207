// What is said about a decision, and whether it is worth saying.
import type { AutoscalingDecision } from "@pilotlight/policy";
import * as z from "zod";

/** What was said last; kept between two decisions. */
export const saidSchema = z.strictObject({
  /** Of the bounds that were obeyed; decimal, because JSON has no 64-bit numbers. */
  generation: z.string().regex(/^\d+$/),
  /** Places taken, by version. */
  held: z.record(z.string(), z.number()),
  /** By version. `waiting`: why replicas have no place yet. */
  versions: z.record(
    z.string(),
    z.strictObject({ wanted: z.number(), demanded: z.number(), waiting: z.string() }),
  ),
});
export type Said = z.infer<typeof saidSchema>;

export const nothingSaid: Said = { generation: "0", held: {}, versions: {} };

/** What there is to say. `rows`: the places as they are after the decision. `waiting`: by version. */
export function sayingOf(
  decision: AutoscalingDecision,
  generation: bigint,
  rows: Iterable<{ version: number }>,
  waiting: ReadonlyMap<number, string>,
): Said {
  const held: Record<string, number> = {};
  for (const { version } of rows) held[version] = (held[version] ?? 0) + 1;
  const versions = Object.fromEntries(
    decision.explain.allocations.map(({ version, replicas }) => [
      version,
      { wanted: replicas, demanded: decision.explain.target, waiting: waiting.get(Number(version)) ?? "" },
    ]),
  );
  return { generation: String(generation), held, versions };
}

/** Versions about which something new is to be said: all of them when the bounds or the places that are taken changed. */
export function newsBetween(before: Said, now: Said): string[] {
  const refit = before.generation !== now.generation || !sameCounts(before.held, now.held);
  return Object.entries(now.versions)
    .filter(([version, one]) => {
      const known = before.versions[version];
      return (
        refit ||
        known === undefined ||
        known.wanted !== one.wanted ||
        known.demanded !== one.demanded ||
        known.waiting !== one.waiting
      );
    })
    .map(([version]) => version);
}

const sameCounts = (a: Readonly<Record<string, number>>, b: Readonly<Record<string, number>>): boolean =>
  Object.keys(a).length === Object.keys(b).length &&
  Object.entries(a).every(([version, count]) => b[version] === count);

/** The decision in a line for people. */
export function reasonText({ reason, explain }: AutoscalingDecision, waiting: string): string {
  const demand = explain.demand === null ? "load unknown" : `load ${Math.round(explain.demand * 10) / 10}`;
  const why = `${reason}: ${demand}, ${explain.wanted} wanted, target ${explain.target}`;
  return waiting === "" ? why : `${why}; no place: ${waiting}`;
}
