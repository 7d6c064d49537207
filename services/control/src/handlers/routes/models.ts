// The catalogue of models, and who approved them.
import { model, revoked } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { parseModelSource } from "@pilotlight/spec";
import * as z from "zod";
import type { World } from "../../domain/world.ts";
import { approveModel, listCatalogue, revokeModel, showModel } from "../../operations/model-catalogue.ts";
import type { PermissionSettings } from "../../operations/model-permission.ts";
import { type ApiDoor, ERRORS } from "./door.ts";

const source = z.string().min(1).max(2_048);

export function modelRoutes(door: ApiDoor, world: World, settings: PermissionSettings): void {
  door.get(
    "/v1/models",
    {
      schema: {
        summary: "Models in the platform's bucket, and approved ones elsewhere.",
        response: { 200: z.array(model), ...ERRORS },
      },
    },
    () => listCatalogue(world),
  );
  door.get(
    "/v1/models/one",
    {
      schema: {
        summary: "One model, as it is now.",
        querystring: z.object({ source }),
        response: { 200: model, ...ERRORS },
      },
    },
    ({ query }) => showModel(world, checked(query.source)),
  );
  door.post(
    "/v1/models/approvals",
    {
      schema: {
        summary: "Approves a model as it is now, in the caller's name.",
        body: z.object({ source, note: z.string().max(2_000).default("") }),
        response: { 200: model, ...ERRORS },
      },
    },
    ({ body, caller }) => approveModel(world, settings, { ...body, source: checked(body.source) }, caller),
  );
  door.delete(
    "/v1/models/approvals",
    {
      schema: {
        summary:
          "Takes an approval back. What runs goes on; where only approved models may run, no new replica loads it.",
        querystring: z.object({ source }),
        response: { 200: revoked, ...ERRORS },
      },
    },
    async ({ query, caller }) => {
      await revokeModel(world, settings, checked(query.source), caller);
      return { source: query.source };
    },
  );
}

function checked(text: string): string {
  const parsed = parseModelSource(text);
  if (parsed.kind === "source") return text;
  throw new PlatformError("invalidArgument", `the source ${parsed.why}`, { field: "source" });
}
