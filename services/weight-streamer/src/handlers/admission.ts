// Who may ask for what: a replica gets the weights that its version names, nothing else, and those only while their approval was not
// taken back. Its order and its first question may cross on their way here, so one that is not known yet is waited for.
import type { ReplicaWanted } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import type { WithdrawnModels } from "../domain/withdrawn-models.ts";
import type { Assignments } from "../store/assignments.ts";

/** Throws `permissionDenied`, or `preconditionFailed` for a model that may not be loaded any more. */
export type Admission = (replicaId: string, source: string, signal: AbortSignal) => Promise<void>;

export type AdmissionOptions = {
  assignments: Pick<Assignments, "sourceOf" | "changed">;
  withdrawn: Pick<WithdrawnModels, "check">;
  /** Serve people and tools too: whoever is no replica that this node was given. */
  strangersAllowed: boolean;
  /** How long a replica's order may come after its question. */
  orderWaitMs: number;
};

export function createAdmission(options: AdmissionOptions): Admission {
  const { assignments, withdrawn, strangersAllowed, orderWaitMs } = options;
  return async (replicaId, source, signal) => {
    const assigned = strangersAllowed
      ? assignments.sourceOf(replicaId)
      : await orderOf(assignments, replicaId, AbortSignal.any([signal, AbortSignal.timeout(orderWaitMs)]));
    if (assigned === undefined && !strangersAllowed) {
      throw new PlatformError(
        "permissionDenied",
        `this node was given no replica ${replicaId || "(unnamed)"}`,
        {
          field: "replicaId",
          remedy:
            "Only this node's replicas load weights here, each its version's. For a streamer without the platform set STRANGERS_ALLOWED=true.",
        },
      );
    }
    if (assigned !== undefined && assigned !== source) {
      throw new PlatformError("permissionDenied", `replica ${replicaId} was not given these weights`, {
        field: "source",
        remedy: "A replica loads what its version's model.source names.",
      });
    }
    withdrawn.check(source);
  };
}

/** What a replica was given, waited for within the signal's time; undefined: nothing. */
async function orderOf(
  assignments: AdmissionOptions["assignments"],
  replicaId: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const over = new Promise<void>((resolve) =>
    signal.addEventListener("abort", () => resolve(), { once: true }),
  );
  while (true) {
    const change = assignments.changed();
    const assigned = assignments.sourceOf(replicaId);
    if (assigned !== undefined || signal.aborted) return assigned;
    await Promise.race([change, over]);
  }
}

/** `replicaWanted`: remembers what the replica may have. */
export function onReplicaWanted(assignments: Assignments, { assignment }: ReplicaWanted): void {
  const source = assignment?.deployment?.model?.source;
  if (assignment !== undefined && source !== undefined) assignments.assigned(assignment.replicaId, source);
}
