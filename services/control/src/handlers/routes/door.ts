// What every route of the API has in common: schemas checked by zod, a token where one is configured, the OpenAPI document.
import { createHash, timingSafeEqual } from "node:crypto";
import swagger from "@fastify/swagger";
import { errorBody } from "@pilotlight/control-api";
import { PlatformError } from "@pilotlight/errors";
import { createHttpDoor } from "@pilotlight/service";
import {
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from "fastify-type-provider-zod";

/** An application file is at most 256 Ki characters, four bytes each. */
const BODY_BYTES_MAX = 1024 * 1024;

export type ApiDoor = Awaited<ReturnType<typeof createApiDoor>>;

/** Errors of every route, for the OpenAPI document. */
export const ERRORS = { "4xx": errorBody, "5xx": errorBody };

/** The door without routes. `token` null: nobody is asked for one. */
export async function createApiDoor(options: { requestTimeoutMs: number; token: string | null }) {
  const door = createHttpDoor({ bodyBytesMax: BODY_BYTES_MAX, requestTimeoutMs: options.requestTimeoutMs });
  door.setValidatorCompiler(validatorCompiler);
  door.setSerializerCompiler(serializerCompiler);
  door.addContentTypeParser(
    ["application/yaml", "application/x-yaml", "text/yaml", "text/plain"],
    { parseAs: "string" },
    (_request, body, done) => done(null, body),
  );
  const { token } = options;
  if (token !== null) {
    door.addHook("onRequest", async (request) => assertToken(request.headers.authorization, token));
  }
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

function assertToken(header: string | undefined, token: string): void {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  if (header !== undefined && timingSafeEqual(digest(header), digest(`Bearer ${token}`))) return;
  throw new PlatformError("unauthenticated", "a bearer token is needed", {
    remedy: "Send 'Authorization: Bearer …'; the command line reads it from PILOTLIGHT_TOKEN.",
  });
}
