// A rollout moved: its story grows, and at its end what serves and what is wanted follow.
import type { Delivery, InboxPorts } from "@pilotlight/bus";
import type { RolloutMoved } from "@pilotlight/contracts";
import { addMove } from "../domain/rollout-story.ts";
import { rolloutPhaseName } from "../domain/wire-names.ts";
import { noteRolledBack, noteServing } from "../store/applications.ts";
import { lockRollout, saveRollout } from "../store/rollouts.ts";

export async function onRolloutMoved(
  message: RolloutMoved,
  { tx }: InboxPorts,
  delivery: Delivery,
): Promise<void> {
  const fromVersion = message.fromVersion === 0 ? null : message.fromVersion;
  const story = addMove(await lockRollout(tx, message.rolloutId), {
    rolloutId: message.rolloutId,
    application: message.application,
    fromVersion,
    toVersion: message.toVersion,
    at: delivery.publishedAt,
    phase: rolloutPhaseName(message.phase),
    traffic: message.traffic,
    reason: message.reason,
  });
  await saveRollout(tx, story);
  const at = new Date(delivery.publishedAt);
  if (story.phase === "done") await noteServing(tx, message.application, message.toVersion, at);
  if (story.phase === "rolledBack" || story.phase === "failed") {
    await noteRolledBack(tx, message.application, message.toVersion, fromVersion);
  }
}
