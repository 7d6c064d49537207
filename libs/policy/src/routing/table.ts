// Which ready replica takes a request: first a version by its weight, then the less loaded of two random replicas.
//
// Versions are chosen by smooth weighted round robin (nginx, https://github.com/nginx/nginx/commit/52327e0627f4),
// which keeps shares exact over a handful of requests where drawing by chance would need thousands. Two random choices
// after Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996): nearly as good as asking all,
// without the herd that follows one least loaded replica. Load is outstanding work relative to capacity, so unequal
// replicas get unequal shares.
//
//   R1. Only replicas that were ready when the table was built are in it; whoever learns of a drain builds a new
//       table before the next request (I2).
//   R2. A request never fails for its version's sake: when the chosen version cannot take it, another one does (I1).
//
// This is the hot path: one table per change of the fleet, no allocation per request except the answer.
import type { Random } from "../random.ts";
import type { RoutableReplica, Route, VersionWeight } from "./types.ts";

type Group = {
  version: string;
  weight: number;
  /** Smooth weighted round robin's running credit. */
  credit: number;
  replicas: RoutableReplica[];
};

export type RoutingTable = { readonly groups: Group[] };

export type RouteOptions = {
  random: Random;
  /** Replicas that were tried already; null for a first attempt. */
  excluded?: ReadonlySet<string> | null;
  /** Stay inside this version, e.g. a call from a deployment of the same version. */
  version?: string | null;
};

const SATURATED: Route = { kind: "saturated" };
const NONE: Route = { kind: "none" };

/**
 * Builds the table for one deployment. Pass only replicas that are ready; their `outstanding` is used in place.
 * Versions without a ready replica get no traffic, and versions without a weight get some only when nobody else can.
 */
export function buildRoutingTable(
  weights: readonly VersionWeight[],
  ready: readonly RoutableReplica[],
): RoutingTable {
  const groups = new Map<string, Group>();
  for (const { version, weight } of weights) {
    groups.set(version, { version, weight: Math.max(0, weight), credit: 0, replicas: [] });
  }
  for (const replica of ready) {
    let group = groups.get(replica.version);
    if (group === undefined) {
      group = { version: replica.version, weight: 0, credit: 0, replicas: [] };
      groups.set(replica.version, group);
    }
    group.replicas.push(replica);
  }
  return { groups: [...groups.values()].filter((group) => group.replicas.length > 0) };
}

/** Chooses a replica for one request. The caller counts `outstanding` up if it sends it there. */
export function route(table: RoutingTable, options: RouteOptions): Route {
  const excluded = options.excluded ?? null;
  const pinned = options.version ?? null;
  const first = pinned === null ? nextGroup(table.groups) : findGroup(table.groups, pinned);
  let saturated = false;
  if (first !== null) {
    const picked = pick(first.replicas, excluded, options.random);
    if (picked.kind === "replica") return picked;
    saturated = picked.kind === "saturated";
  }
  if (pinned !== null && first !== null) return saturated ? SATURATED : NONE;
  // Weighted versions before those that should get no traffic.
  for (let pass = 0; pass < 2; pass++) {
    for (const group of table.groups) {
      if (group === first || group.weight > 0 !== (pass === 0)) continue;
      const picked = pick(group.replicas, excluded, options.random);
      if (picked.kind === "replica") return picked;
      saturated ||= picked.kind === "saturated";
    }
  }
  return saturated ? SATURATED : NONE;
}

function findGroup(groups: readonly Group[], version: string): Group | null {
  for (const group of groups) if (group.version === version) return group;
  return null;
}

/** The version whose turn it is; null when no version has a weight. */
function nextGroup(groups: readonly Group[]): Group | null {
  let total = 0;
  let best: Group | null = null;
  for (const group of groups) {
    if (group.weight === 0) continue;
    total += group.weight;
    group.credit += group.weight;
    if (best === null || group.credit > best.credit) best = group;
  }
  if (best !== null) best.credit -= total;
  return best;
}

function pick(
  replicas: readonly RoutableReplica[],
  excluded: ReadonlySet<string> | null,
  random: Random,
): Route {
  const count = replicas.length;
  // Replicas stand in a circle; the two candidates are distinct whenever there are two.
  const start = Math.floor(random() * count);
  const other = count > 1 ? (start + 1 + Math.floor(random() * (count - 1))) % count : start;
  const a = usable(replicas[start], excluded);
  const b = usable(replicas[other], excluded);
  const best = a === null ? b : b === null ? a : load(b) < load(a) ? b : a;
  if (best !== null) return { kind: "replica", replica: best };
  // Both were full or excluded, which is rare: look at all before giving up.
  let least: RoutableReplica | null = null;
  let tried = 0;
  for (const replica of replicas) {
    if (excluded?.has(replica.replicaId)) tried++;
    else if (load(replica) < 1 && (least === null || load(replica) < load(least))) least = replica;
  }
  if (least !== null) return { kind: "replica", replica: least };
  return tried === count ? NONE : SATURATED;
}

const load = (replica: RoutableReplica) => replica.outstanding / replica.concurrencyMax;

function usable(
  replica: RoutableReplica | undefined,
  excluded: ReadonlySet<string> | null,
): RoutableReplica | null {
  if (replica === undefined || load(replica) >= 1) return null;
  return excluded?.has(replica.replicaId) ? null : replica;
}
