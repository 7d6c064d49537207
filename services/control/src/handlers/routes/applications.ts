// Applications: deploy, look, roll back, delete.
import {
  activation,
  applicationDetail,
  applicationSummary,
  deleted,
  deployResult,
  waterfall,
} from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { formatProblem, parseApplication } from "@pilotlight/spec";
import * as z from "zod";
import { waterfallOf } from "../../domain/views.ts";
import type { World } from "../../domain/world.ts";
import { deleteApplication } from "../../operations/delete-application.ts";
import { type DeploySettings, deploy } from "../../operations/deploy.ts";
import { rollBack } from "../../operations/roll-back.ts";
import { showApplication, showApplications } from "../../operations/show-applications.ts";
import { listLatest } from "../../store/replicas.ts";
import { type ApiDoor, ERRORS } from "./door.ts";

const named = z.object({ application: z.string().max(128) });

export function applicationRoutes(door: ApiDoor, world: World, settings: DeploySettings): void {
  door.post(
    "/v1/applications",
    {
      schema: {
        summary: "Deploys an application file (YAML). The same file again changes nothing.",
        consumes: ["application/yaml"],
        querystring: z.object({ dryRun: z.stringbool().default(false) }),
        response: { 200: deployResult, 201: deployResult, ...ERRORS },
      },
    },
    async (request, reply) => {
      if (typeof request.body !== "string") {
        throw new PlatformError("invalidArgument", "the body is no application file", {
          remedy: "Send the file's text with 'content-type: application/yaml'.",
        });
      }
      const parsed = parseApplication(request.body, { fileName: "application" });
      if ("problems" in parsed) {
        const { problems } = parsed;
        const [first] = problems;
        const error = new PlatformError(
          "invalidArgument",
          `the application file has ${problems.length === 1 ? "a problem" : `${problems.length} problems`}: ${
            first === undefined ? "" : formatProblem(first, "application")
          }`,
        );
        return reply.status(400).send({ error: { ...error.toJSON(), problems } });
      }
      const result = await deploy(world, settings, parsed.application, { dryRun: request.query.dryRun });
      return reply.status(result.outcome === "created" && !result.dryRun ? 201 : 200).send(result);
    },
  );

  door.get(
    "/v1/applications",
    { schema: { summary: "All applications.", response: { 200: z.array(applicationSummary), ...ERRORS } } },
    () => showApplications(world),
  );

  door.get(
    "/v1/applications/:application",
    {
      schema: {
        summary: "One application with its versions and replicas.",
        params: named,
        response: { 200: applicationDetail, ...ERRORS },
      },
    },
    (request) => showApplication(world, request.params.application),
  );

  door.post(
    "/v1/applications/:application/rollback",
    {
      schema: {
        summary: "Brings an earlier version back; without a number the one that served before.",
        params: named,
        body: z.object({ version: z.int().min(1).optional() }).nullish(),
        response: { 200: activation, ...ERRORS },
      },
    },
    (request) => rollBack(world, settings, request.params.application, request.body?.version ?? null),
  );

  door.delete(
    "/v1/applications/:application",
    {
      schema: {
        summary: "Deletes an application and everything that it runs.",
        params: named,
        response: { 200: deleted, ...ERRORS },
      },
    },
    (request) => deleteApplication(world, request.params.application),
  );

  door.get(
    "/v1/applications/:application/waterfall",
    {
      schema: {
        summary: "The latest cold starts of an application, newest first.",
        params: named,
        querystring: z.object({ limit: z.coerce.number().int().min(1).max(100).default(10) }),
        response: { 200: z.array(waterfall), ...ERRORS },
      },
    },
    async (request) => {
      const replicas = await listLatest(world.store.sql, request.params.application, request.query.limit);
      return replicas.map(waterfallOf);
    },
  );
}
