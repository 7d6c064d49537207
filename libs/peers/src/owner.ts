// Which of several nodes does what has to be done once, agreed without talking (rendezvous hashing).
import { createHash } from "node:crypto";

/** The node among `nodeIds` that `key` belongs to: the same one whoever asks. Throws for none. */
export function ownerOf(nodeIds: readonly string[], key: string): string {
  const weight = (nodeId: string) => createHash("sha256").update(`${key}\0${nodeId}`).digest("hex");
  const [best] = nodeIds
    .map((nodeId) => ({ nodeId, weight: weight(nodeId) }))
    .sort((a, b) => (a.weight < b.weight ? 1 : -1));
  if (best === undefined) throw new RangeError("what is to be done needs a node to do it");
  return best.nodeId;
}
