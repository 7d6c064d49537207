// gRPC: runs a recorded decision again and compares what comes out, byte for byte (I9).
import type {
  MessageInitShape,
  ReplayDecisionRequest,
  ReplayDecisionResponseSchema,
} from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { replayDecision as replay } from "@pilotlight/policy";
import type { Store } from "@pilotlight/store";
import { findDecision } from "../store/decisions.ts";
import { decisionMessage } from "./list-decisions.ts";

export const replayDecision =
  (store: Store) =>
  async ({
    decisionId,
  }: ReplayDecisionRequest): Promise<MessageInitShape<typeof ReplayDecisionResponseSchema>> => {
    const row = await findDecision(store.sql, decisionId);
    if (row === null) {
      throw new PlatformError("notFound", `there is no decision ${decisionId}`, {
        field: "decisionId",
        remedy: "'pilotlight decisions' lists them; old ones are forgotten after a while.",
      });
    }
    const record = decisionMessage(row);
    const replayed = replay(row.record);
    switch (replayed.kind) {
      case "same":
        return { record, identical: true, replayedOutputJson: record.outputJson ?? "" };
      case "different":
        return { record, identical: false, replayedOutputJson: replayed.replayed };
      case "unreadable":
        throw new PlatformError("corrupt", `decision ${decisionId} cannot be replayed: ${replayed.why}`);
      default:
        return replayed satisfies never;
    }
  };
