// One replica and its cold start.
import { type ReplicaView, replica, waterfall } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import * as z from "zod";
import { waterfallOf } from "../../domain/views.ts";
import type { World } from "../../domain/world.ts";
import { findReplica } from "../../store/replicas.ts";
import { type ApiDoor, ERRORS } from "./door.ts";

const params = z.object({ replicaId: z.string().max(128) });

export function replicaRoutes(door: ApiDoor, world: World): void {
  door.get(
    "/v1/replicas/:replicaId",
    { schema: { summary: "One replica.", params, response: { 200: replica, ...ERRORS } } },
    (request) => known(world, request.params.replicaId),
  );
  door.get(
    "/v1/replicas/:replicaId/waterfall",
    {
      schema: { summary: "Its cold start, phase by phase.", params, response: { 200: waterfall, ...ERRORS } },
    },
    async (request) => waterfallOf(await known(world, request.params.replicaId)),
  );
}

async function known(world: World, replicaId: string): Promise<ReplicaView> {
  const found = await findReplica(world.store.sql, replicaId);
  if (found !== null) return found;
  throw new PlatformError("notFound", `there is no replica ${replicaId}`, {
    remedy: "'pilotlight status' lists the replicas; those that are gone are forgotten after a while.",
  });
}
