// What the nodes are told of approvals: a model whose approval was taken back is loaded by no replica that starts afterwards. The
// weight streamers hold to it; told is the source as versions name it for them.
import type { PublishInTransaction } from "@pilotlight/bus";
import { EVENTS, timestampFromMs } from "@pilotlight/contracts";
import { resolveSource } from "../domain/spec-message.ts";
import type { World } from "../domain/world.ts";
import { listWithdrawals, type WithdrawalRow } from "../store/withdrawals.ts";
import type { ModelPolicy } from "./admit-models.ts";

export type PermissionSettings = ModelPolicy & { bucketUri: string };

/** Whoever was away for longer than this learns from the document's absence that the model may be loaded again. */
const PERMITTED_KEEP_MS = 7 * 24 * 3_600_000;

/** Tells that a model may not be loaded any more, where approval is asked for. */
export function sayWithdrawn(
  publish: PublishInTransaction,
  settings: PermissionSettings,
  { source, withdrawnBy, withdrawnAt }: WithdrawalRow,
): void {
  if (!settings.modelsApprovedOnly) {
    sayPermitted(publish, settings, source);
    return;
  }
  publish(EVENTS.modelPermissionSet, {
    source: resolveSource(source, settings.bucketUri),
    withdrawn: true,
    withdrawnBy,
    withdrawnAt: timestampFromMs(withdrawnAt.getTime()),
  });
}

/** Tells that a model may be loaded again. */
export function sayPermitted(
  publish: PublishInTransaction,
  { bucketUri }: PermissionSettings,
  source: string,
): void {
  const document = { source: resolveSource(source, bucketUri), withdrawn: false };
  publish(EVENTS.modelPermissionSet, document, { ttlMs: PERMITTED_KEEP_MS });
}

/** Tells everything anew: whether approval is asked for may have changed since this service ran last. */
export function sayPermissions(
  { outbox }: Pick<World, "outbox">,
  settings: PermissionSettings,
): Promise<void> {
  return outbox.transaction(async (tx, publish) => {
    for (const row of await listWithdrawals(tx)) sayWithdrawn(publish, settings, row);
  });
}
