// What the replica is and how it stands: /healthz and /v1/models.

import { ReplicaPhase } from "@pilotlight/contracts";
import type { ModelEntry } from "@pilotlight/openai";
import type { FastifyInstance } from "fastify";
import type { Life } from "../domain/life.ts";
import type { OpenRequests } from "../domain/open-requests.ts";

/** Adds the routes. */
export function addStateRoutes(
  app: FastifyInstance,
  ports: { life: Life; open: OpenRequests; modelName: string; application: string },
): void {
  app.get("/healthz", (_request, reply) => {
    const { life, open } = ports;
    return reply
      .status(life.takesRequests ? 200 : 503)
      .send({ phase: ReplicaPhase[life.phase].toLowerCase(), inFlight: open.size });
  });
  app.get("/v1/models", () => {
    const model: ModelEntry = {
      id: ports.modelName,
      object: "model",
      created: 0,
      owned_by: ports.application,
    };
    return Promise.resolve({ object: "list", data: [model] });
  });
}
