// The platform at a glance, and its parts one by one.

import { EVENTS } from "@pilotlight/contracts";
import { image, node, rollout, status, weights } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { parseImage } from "@pilotlight/spec";
import * as z from "zod";
import type { Peers } from "../../adapters/peers.ts";
import { imageWantedView } from "../../domain/views.ts";
import type { World } from "../../domain/world.ts";
import { showApplications } from "../../operations/show-applications.ts";
import { listImages, listWeights, noteImageAsked } from "../../store/artifacts.ts";
import { listRollouts } from "../../store/rollouts.ts";
import { type ApiDoor, ERRORS } from "./door.ts";

const ROWS_MAX = 1_000;

export function statusRoutes(
  door: ApiDoor,
  world: World,
  settings: { imagePlatform: string },
  peers: Pick<Peers, "probe">,
): void {
  const { store, outbox, live, now } = world;
  const images = async () =>
    (await listImages(store.sql, ROWS_MAX)).map((view) => live.withProgress(view, now()));
  const loads = async () => live.withLoading(await listWeights(store.sql, ROWS_MAX), now());

  door.get(
    "/v1/status",
    { schema: { summary: "Everything at a glance.", response: { 200: status, ...ERRORS } } },
    async () => {
      const [applications, imageViews, weightsViews, peerViews] = await Promise.all([
        showApplications(world),
        images(),
        loads(),
        peers.probe(),
      ]);
      return {
        at: now(),
        applications,
        nodes: live.nodes(now()),
        images: imageViews,
        weights: weightsViews,
        peers: peerViews,
      };
    },
  );
  door.get(
    "/v1/nodes",
    { schema: { summary: "Nodes that were heard of.", response: { 200: z.array(node), ...ERRORS } } },
    () => live.nodes(now()),
  );
  door.get(
    "/v1/images",
    { schema: { summary: "Images, newest first.", response: { 200: z.array(image), ...ERRORS } } },
    images,
  );
  door.post(
    "/v1/images",
    {
      schema: {
        summary: "Has an image converted, ahead of any deployment.",
        body: z.object({ image: z.string().max(1_024), platform: z.string().max(128).optional() }),
        response: { 202: image, ...ERRORS },
      },
    },
    async ({ body }, reply) => {
      const parsed = parseImage(body.image);
      if (parsed.kind === "invalid") {
        throw new PlatformError("invalidArgument", `the image ${parsed.why}`, { field: "image" });
      }
      const view = imageWantedView(body.image, body.platform ?? settings.imagePlatform, now());
      await outbox.transaction(async (tx, publish) => {
        await noteImageAsked(tx, view);
        publish(EVENTS.imageWanted, { image: view.image, platform: view.platform });
      });
      return reply.status(202).send(view);
    },
  );
  door.get(
    "/v1/weights",
    {
      schema: {
        summary: "Weights that nodes have loaded or load now.",
        response: { 200: z.array(weights), ...ERRORS },
      },
    },
    loads,
  );
  door.get(
    "/v1/rollouts",
    {
      schema: {
        summary: "Rollouts, newest first, each with its story.",
        querystring: z.object({
          application: z.string().max(128).optional(),
          limit: z.coerce.number().int().min(1).max(ROWS_MAX).default(20),
        }),
        response: { 200: z.array(rollout), ...ERRORS },
      },
    },
    ({ query }) => listRollouts(store.sql, query.application ?? null, query.limit),
  );
}
