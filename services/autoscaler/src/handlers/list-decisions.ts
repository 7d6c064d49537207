// gRPC: decision records, newest first.
import {
  type DecisionRecordSchema,
  type ListDecisionsRequest,
  type ListDecisionsResponseSchema,
  type MessageInitShape,
  timestampFromDate,
} from "@pilotlight/contracts";
import type { DecisionRecord } from "@pilotlight/policy";
import type { Store } from "@pilotlight/store";
import { type DecisionRow, listDecisions as readDecisions } from "../store/decisions.ts";

const LIMIT_DEFAULT = 50;
const LIMIT_MAX = 1_000;

export const listDecisions =
  (store: Store) =>
  async (request: ListDecisionsRequest): Promise<MessageInitShape<typeof ListDecisionsResponseSchema>> => {
    const limit = Math.min(LIMIT_MAX, request.limit === 0 ? LIMIT_DEFAULT : request.limit);
    const application = request.application === "" ? null : request.application;
    return { decisions: (await readDecisions(store.sql, application, limit)).map(decisionMessage) };
  };

/** A stored decision on the wire. */
export function decisionMessage(row: DecisionRow): MessageInitShape<typeof DecisionRecordSchema> {
  const { input, output } = JSON.parse(row.record) as DecisionRecord;
  const { record: _, at, ...rest } = row;
  return {
    ...rest,
    at: timestampFromDate(at),
    inputJson: JSON.stringify(input),
    outputJson: JSON.stringify(output),
  };
}
