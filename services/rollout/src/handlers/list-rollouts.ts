// gRPC: rollouts, running and past, each with its story.
import {
  type ListRolloutsRequest,
  type ListRolloutsResponseSchema,
  type MessageInitShape,
  timestampFromDate,
} from "@pilotlight/contracts";
import type { Store } from "@pilotlight/store";
import { movedMessage } from "../operations/step.ts";
import { listSteps, listRollouts as readRollouts } from "../store/rollouts.ts";

const LIMIT_DEFAULT = 20;
const LIMIT_MAX = 1_000;

export const listRollouts =
  (store: Store) =>
  async (request: ListRolloutsRequest): Promise<MessageInitShape<typeof ListRolloutsResponseSchema>> => {
    const limit = Math.min(LIMIT_MAX, request.limit === 0 ? LIMIT_DEFAULT : request.limit);
    const rows = await readRollouts(
      store.sql,
      request.application === "" ? null : request.application,
      limit,
    );
    const steps = await listSteps(
      store.sql,
      rows.map((row) => row.rolloutId),
    );
    return {
      rollouts: rows.map((row) => {
        const own = steps.filter((step) => step.rolloutId === row.rolloutId);
        const last = own.at(-1);
        return {
          ...(last === undefined ? {} : { last: movedMessage(row, last) }),
          startedAt: timestampFromDate(row.startedAt),
          ...(row.endedAt === null ? {} : { endedAt: timestampFromDate(row.endedAt) }),
          steps: own.map(({ phase, traffic, reason, at }) => ({
            phase,
            traffic,
            reason,
            at: timestampFromDate(at),
          })),
        };
      }),
    };
  };
