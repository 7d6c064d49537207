// Decision records: everything that went into a decision and what came out, as one line of JSON, so that it can be
// explained later and replayed byte for byte (I9). That works because decisions are pure, their inputs are plain data,
// and JSON keeps the order of keys.
import { decide } from "./autoscaling/decide.ts";
import { decideRollout } from "./rollout/decide.ts";

const POLICIES = { autoscaling: decide, rollout: decideRollout };

export type PolicyName = keyof typeof POLICIES;
export type PolicyInput<K extends PolicyName> = Parameters<(typeof POLICIES)[K]>;
export type PolicyOutput<K extends PolicyName> = ReturnType<(typeof POLICIES)[K]>;

const FORMAT = 1;

export type DecisionRecord<K extends PolicyName = PolicyName> = {
  format: typeof FORMAT;
  policy: K;
  /** `[now, observation, state, config or plan]`. */
  input: PolicyInput<K>;
  output: PolicyOutput<K>;
};

export type Replayed =
  | { kind: "same" }
  /** The policy's code has changed since, or the record was changed. Both are the outputs as JSON. */
  | { kind: "different"; recorded: string; replayed: string }
  | { kind: "unreadable"; why: string };

/** Decides, and returns the decision together with its record. */
export function recordDecision<K extends PolicyName>(
  policy: K,
  ...input: PolicyInput<K>
): { decision: PolicyOutput<K>; record: string } {
  const run = POLICIES[policy] as unknown as (...args: PolicyInput<K>) => PolicyOutput<K>;
  const decision = run(...input);
  return { decision, record: JSON.stringify({ format: FORMAT, policy, input, output: decision }) };
}

/** Decides again from a record and compares the outputs byte for byte. */
export function replayDecision(text: string): Replayed {
  let record: DecisionRecord;
  try {
    record = JSON.parse(text) as DecisionRecord;
  } catch (error) {
    return { kind: "unreadable", why: error instanceof Error ? error.message : String(error) };
  }
  if (record?.format !== FORMAT || !Object.hasOwn(POLICIES, record.policy) || !Array.isArray(record.input)) {
    return { kind: "unreadable", why: `not a decision record of format ${FORMAT}` };
  }
  const run = POLICIES[record.policy] as (...args: unknown[]) => unknown;
  const recorded = JSON.stringify(record.output);
  const replayed = JSON.stringify(run(...record.input));
  return recorded === replayed ? { kind: "same" } : { kind: "different", recorded, replayed };
}
