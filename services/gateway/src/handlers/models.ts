// GET /v1/models and /v1/models/{id}: the names that requests may use.
import { PlatformError } from "@pilotlight/errors";
import type { ModelEntry } from "@pilotlight/openai";
import type { FastifyInstance } from "fastify";
import type { ApiKeys } from "../adapters/api-keys.ts";
import type { Endpoint } from "../domain/endpoint.ts";
import type { Fleet } from "../domain/fleet.ts";

/** Adds the routes. */
export function addModelRoutes(api: FastifyInstance, ports: { fleet: Fleet; keys: ApiKeys | null }): void {
  api.get("/v1/models", (request) => {
    ports.keys?.nameOf(request.headers.authorization);
    return Promise.resolve({ object: "list", data: ports.fleet.models().map(entryOf) });
  });
  // Names may hold slashes, as those of hubs do.
  api.get("/v1/models/*", (request) => {
    ports.keys?.nameOf(request.headers.authorization);
    const name = (request.params as { "*": string })["*"];
    const endpoint = ports.fleet.resolve(name);
    if (endpoint !== undefined) return Promise.resolve(entryOf(endpoint));
    throw new PlatformError("notFound", `the model '${name.slice(0, 100)}' does not exist`, {
      field: "model",
    });
  });
}

/** `created` is part of OpenAI's form; the gateway does not know when a model was made, and says 0. */
const entryOf = ({ modelName, application }: Endpoint): ModelEntry => ({
  id: modelName,
  object: "model",
  created: 0,
  owned_by: application,
});
