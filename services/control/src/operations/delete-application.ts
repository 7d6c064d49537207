// Deleting: everything that an application runs is to go. Its versions are kept, and their numbers are not given again.
import { EVENTS } from "@pilotlight/contracts";
import type { World } from "../domain/world.ts";
import { lockWanted, markDeleted } from "../store/applications.ts";
import { deleteScales } from "../store/scales.ts";
import { existing } from "./roll-back.ts";

export function deleteApplication(world: World, name: string): Promise<{ application: string }> {
  return world.outbox.transaction(async (tx, publish) => {
    await lockWanted(tx);
    await existing(tx, name);
    await markDeleted(tx, name, new Date(world.now()));
    await deleteScales(tx, name);
    publish(EVENTS.applicationDeleted, { application: name });
    return { application: name };
  });
}
