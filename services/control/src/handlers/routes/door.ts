// What every route of the API has in common: schemas checked by zod, a token where one is configured, the OpenAPI document.
import swagger from "@fastify/swagger";
import { errorBody } from "@pilotlight/control-api";
import { createHttpDoor } from "@pilotlight/service";
import {
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from "fastify-type-provider-zod";
import { type Caller, type Callers, callerOf } from "../../adapters/callers.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Who asks, by the token that was presented. */
    caller: Caller;
  }
}

/** An application file is at most 256 Ki characters, four bytes each. */
const BODY_BYTES_MAX = 1024 * 1024;

export type ApiDoor = Awaited<ReturnType<typeof createApiDoor>>;

/** Errors of every route, for the OpenAPI document. */
export const ERRORS = { "4xx": errorBody, "5xx": errorBody };

/** The door without routes. `callers` null: nobody is asked for a token. */
export async function createApiDoor(options: { requestTimeoutMs: number; callers: Callers | null }) {
  const door = createHttpDoor({ bodyBytesMax: BODY_BYTES_MAX, requestTimeoutMs: options.requestTimeoutMs });
  door.setValidatorCompiler(validatorCompiler);
  door.setSerializerCompiler(serializerCompiler);
  door.addContentTypeParser(
    ["application/yaml", "application/x-yaml", "text/yaml", "text/plain"],
    { parseAs: "string" },
    (_request, body, done) => done(null, body),
  );
  door.decorateRequest("caller");
  door.addHook("onRequest", async (request) => {
    request.caller = callerOf(options.callers, request.headers.authorization);
  });
  await door.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Pilotlight control",
        version: "1.0.0",
        description: "Applications, versions, and everything worth showing.",
        license: { name: "Apache-2.0" },
      },
    },
    transform: jsonSchemaTransform,
  });
  return door.withTypeProvider<ZodTypeProvider>();
}
