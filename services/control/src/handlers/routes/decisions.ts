// Why the autoscaler did what it did; asked of the autoscaler itself.
import { type DecisionRecord, timestampMs } from "@pilotlight/contracts";
import { type DecisionView, decision, replay } from "@pilotlight/control-api";
import * as z from "zod";
import type { Peers } from "../../adapters/peers.ts";
import { type ApiDoor, ERRORS } from "./door.ts";

export function decisionRoutes(door: ApiDoor, { autoscaler }: Pick<Peers, "autoscaler">): void {
  door.get(
    "/v1/decisions",
    {
      schema: {
        summary: "Decision records, newest first.",
        querystring: z.object({
          application: z.string().max(128).optional(),
          limit: z.coerce.number().int().min(1).max(1_000).default(50),
        }),
        response: { 200: z.array(decision), ...ERRORS },
      },
    },
    async ({ query }) => {
      const { decisions } = await autoscaler.listDecisions({
        application: query.application ?? "",
        limit: query.limit,
      });
      return decisions.map(decisionView);
    },
  );
  door.post(
    "/v1/decisions/:decisionId/replay",
    {
      schema: {
        summary: "Runs a recorded decision again and compares.",
        params: z.object({ decisionId: z.string().max(128) }),
        response: { 200: replay, ...ERRORS },
      },
    },
    async ({ params }) => {
      const answer = await autoscaler.replayDecision({ decisionId: params.decisionId });
      return {
        decision: decisionView(answer.record),
        identical: answer.identical,
        replayedOutput: parsed(answer.replayedOutputJson),
      };
    },
  );
}

const parsed = (json: string): unknown => (json === "" ? null : JSON.parse(json));

function decisionView(record: DecisionRecord | undefined): DecisionView {
  return {
    decisionId: record?.decisionId ?? "",
    application: record?.application ?? "",
    deployment: record?.deployment ?? "",
    version: record?.version ?? 0,
    at: record?.at === undefined ? 0 : timestampMs(record.at),
    replicasBefore: record?.replicasBefore ?? 0,
    replicasWanted: record?.replicasWanted ?? 0,
    reason: record?.reason ?? "",
    input: parsed(record?.inputJson ?? ""),
    output: parsed(record?.outputJson ?? ""),
  };
}
