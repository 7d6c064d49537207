// What the leader knows of its own rows. It is the only one who writes them, so it reads them once; memory follows each
// commit, and a commit that failed leaves it as it was.
import { type AutoscalingState, initialAutoscalingState } from "@pilotlight/policy";
import type { DeploymentRow } from "../store/deployments.ts";
import { type Key, keyOf } from "./heard.ts";
import type { ReplicaRow } from "./replica.ts";
import { nothingSaid, type Said } from "./saying.ts";

/** One deployment: its places, what the policy remembers, what was said, how long starts took. */
export type Managed = {
  rows: ReadonlyMap<string, ReplicaRow>;
  state: AutoscalingState;
  said: Said;
  coldStartsMs: readonly number[];
  /** When a decision was recorded last, epoch ms. */
  recordedAt: number;
};

/** Cold starts that count for the estimate. */
export const COLD_STARTS_KEPT = 15;

export type Fleet = ReturnType<typeof createFleet>;

/** The fleet as the database has it. */
export function createFleet(
  stored: {
    replicas: readonly ReplicaRow[];
    deployments: readonly DeploymentRow[];
    coldStarts: readonly { application: string; deployment: string; durationMs: number }[];
  },
  now: number,
) {
  const managed = new Map<Key, Managed>();
  const get = (key: Key): Managed =>
    managed.get(key) ?? {
      rows: new Map(),
      state: initialAutoscalingState(),
      said: nothingSaid,
      coldStartsMs: [],
      recordedAt: 0,
    };
  for (const row of stored.deployments)
    managed.set(keyOf(row), { ...get(keyOf(row)), state: resumed(row.state, now), said: row.said });
  for (const row of stored.replicas) {
    const known = get(keyOf(row));
    managed.set(keyOf(row), { ...known, rows: new Map(known.rows).set(row.replicaId, row) });
  }
  for (const start of stored.coldStarts) {
    const known = managed.get(keyOf(start));
    if (known === undefined) continue;
    managed.set(keyOf(start), { ...known, coldStartsMs: [...known.coldStartsMs, start.durationMs] });
  }
  return {
    get,
    has: (key: Key): boolean => managed.has(key),
    set: (key: Key, value: Managed) => void managed.set(key, value),
    delete: (key: Key) => void managed.delete(key),
    keys: (): Key[] => [...managed.keys()],
    rows: (): ReplicaRow[] => [...managed.values()].flatMap((one) => [...one.rows.values()]),
  };
}

/** While nobody decided nobody saw the load: what there is counts as needed for one whole window. */
function resumed(state: AutoscalingState, now: number): AutoscalingState {
  if (state.target === null) return state;
  return { ...state, window: [{ at: now, highest: state.target }], idleSince: null, more: null };
}
