// The AsyncAPI 3.0 document of everything that travels on NATS, made from the catalogue and the generated
// descriptors. Payload schemas follow protobuf's JSON mapping (https://protobuf.dev/programming-guides/json/):
// a consumer that speaks no protobuf can still read `docs/reference/asyncapi.json`.
import { type DescEnum, type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { cloudEventType, EVENTS, type EventType, filterOf } from "./catalogue.ts";

type JsonSchema = Record<string, unknown>;

const KIND_TEXT = {
  evt: "Durable event in the stream PL_EVENTS.",
  doc: "Latest value per key in the stream PL_DOCUMENTS.",
  smp: "Lossy sample on core NATS; never stored.",
  log: "Log batch in the stream PL_LOGS.",
} as const;

/** The whole document. */
export function asyncApiDocument(): JsonSchema {
  const schemas: Record<string, JsonSchema> = {};
  const entries = Object.entries(EVENTS) as [string, EventType][];
  return {
    asyncapi: "3.0.0",
    info: {
      title: "Pilotlight events",
      version: "1.0.0",
      license: { name: "Apache-2.0" },
      description:
        "Every event of the platform. Payloads are protobuf (content type application/protobuf); the schemas here are " +
        "their JSON mapping. Headers follow the CloudEvents NATS binding in binary mode.",
    },
    defaultContentType: "application/protobuf",
    channels: Object.fromEntries(entries.map(([name, type]) => [name, channel(name, type)])),
    operations: Object.fromEntries(
      entries.map(([name, type]) => [
        `send_${name}`,
        {
          action: "send",
          channel: { $ref: `#/channels/${name}` },
          summary: `${type.context}: ${type.summary}`,
        },
      ]),
    ),
    components: {
      messages: Object.fromEntries(entries.map(([name, type]) => [name, message(type, schemas)])),
      schemas,
    },
  };
}

function channel(name: string, type: EventType): JsonSchema {
  const wildcards = filterOf(type).split(".");
  let next = 0;
  const address = wildcards.map((token) => (token === "*" ? `{${type.keyNames[next++]}}` : token)).join(".");
  return {
    address,
    description: `${type.summary} ${KIND_TEXT[type.kind]}`,
    messages: { [name]: { $ref: `#/components/messages/${name}` } },
    ...(type.keyNames.length === 0
      ? {}
      : {
          parameters: Object.fromEntries(type.keyNames.map((key) => [key, { description: `The ${key}.` }])),
        }),
  };
}

function message(type: EventType, schemas: Record<string, JsonSchema>): JsonSchema {
  return {
    name: cloudEventType(type),
    summary: type.summary,
    contentType: "application/protobuf",
    headers: {
      type: "object",
      required: ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"],
      properties: {
        "ce-specversion": { const: "1.0" },
        "ce-id": { type: "string" },
        "ce-source": { type: "string" },
        "ce-type": { const: cloudEventType(type) },
        "ce-time": { type: "string", format: "date-time" },
        traceparent: { type: "string" },
      },
    },
    payload: messageRef(type.schema, schemas),
    "x-protobuf-message": type.schema.typeName,
  };
}

function messageRef(desc: DescMessage, schemas: Record<string, JsonSchema>): JsonSchema {
  if (desc.typeName === "google.protobuf.Timestamp") return { type: "string", format: "date-time" };
  if (schemas[desc.typeName] === undefined) {
    const schema: JsonSchema = { type: "object", additionalProperties: false };
    schemas[desc.typeName] = schema; // before its fields, which may lead back here
    schema.properties = Object.fromEntries(
      desc.fields.map((field) => [field.jsonName, fieldSchema(field, schemas)]),
    );
  }
  return { $ref: `#/components/schemas/${desc.typeName}` };
}

function fieldSchema(field: DescField, schemas: Record<string, JsonSchema>): JsonSchema {
  switch (field.fieldKind) {
    case "scalar":
      return scalarSchema(field.scalar);
    case "enum":
      return enumSchema(field.enum);
    case "message":
      return messageRef(field.message, schemas);
    case "list":
      return { type: "array", items: singular(field, field.listKind, schemas) };
    case "map":
      return { type: "object", additionalProperties: singular(field, field.mapKind, schemas) };
  }
}

function singular(
  field: DescField & { fieldKind: "list" | "map" },
  kind: "scalar" | "enum" | "message",
  schemas: Record<string, JsonSchema>,
): JsonSchema {
  if (kind === "scalar" && field.scalar !== undefined) return scalarSchema(field.scalar);
  if (kind === "enum" && field.enum !== undefined) return enumSchema(field.enum);
  if (kind === "message" && field.message !== undefined) return messageRef(field.message, schemas);
  throw new Error(`${field.toString()} has no element type`);
}

const enumSchema = (desc: DescEnum): JsonSchema => ({ enum: desc.values.map((value) => value.name) });

function scalarSchema(scalar: ScalarType): JsonSchema {
  switch (scalar) {
    case ScalarType.BOOL:
      return { type: "boolean" };
    case ScalarType.STRING:
      return { type: "string" };
    case ScalarType.BYTES:
      return { type: "string", contentEncoding: "base64" };
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return { oneOf: [{ type: "number" }, { enum: ["NaN", "Infinity", "-Infinity"] }] };
    case ScalarType.INT32:
    case ScalarType.SINT32:
    case ScalarType.SFIXED32:
      return { type: "integer", minimum: -(2 ** 31), maximum: 2 ** 31 - 1 };
    case ScalarType.UINT32:
    case ScalarType.FIXED32:
      return { type: "integer", minimum: 0, maximum: 2 ** 32 - 1 };
    default:
      return { type: "string", pattern: "^-?[0-9]+$" }; // 64-bit integers are strings in JSON
  }
}
