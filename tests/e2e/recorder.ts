// Listens to everything that is said on NATS and holds it against the AsyncAPI document: an outside team's view.
import { create, fromBinary, toJson } from "@bufbuild/protobuf";
import { connectBus, tail } from "@pilotlight/bus";
import { cloudEventType, type EventType } from "@pilotlight/contracts";
import { asyncApiDocument } from "@pilotlight/contracts/asyncapi";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";

export type Recording = {
  /** How many messages of each type were heard, by CloudEvents type. */
  heard: Map<string, number>;
  /** What was wrong with which message. */
  violations: string[];
  stop(): Promise<void>;
};

const REQUIRED_HEADERS = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"];

/** Starts listening. */
export async function recordEvents(natsUrl: string): Promise<Recording> {
  const bus = await connectBus({
    url: natsUrl,
    service: "recorder",
    connectTimeoutMs: 10_000,
    streamReplicas: 1,
  });
  const messages = tail(bus, "pl.>");
  const ajv = new Ajv2020({ strict: false });
  formats.default(ajv);
  ajv.addSchema(asyncApiDocument(), "asyncapi");
  const heard = new Map<string, number>();
  const violations: string[] = [];
  const check = (type: EventType, headers: Record<string, string>, payload: Uint8Array): string[] => {
    const problems = REQUIRED_HEADERS.filter((name) => headers[name] === undefined).map(
      (name) => `no header ${name}`,
    );
    if (headers["ce-type"] !== cloudEventType(type)) problems.push(`ce-type is ${headers["ce-type"]}`);
    const validate = ajv.getSchema(`asyncapi#/components/schemas/${type.schema.typeName}`);
    const message = fromBinary(type.schema, payload);
    if (message.$unknown !== undefined) problems.push("fields that are not in the contract");
    if (validate?.(toJson(type.schema, create(type.schema, message as never))) !== true)
      problems.push(JSON.stringify(validate?.errors));
    return problems;
  };
  const listening = (async () => {
    for await (const { subject, headers, type, payload } of messages) {
      if (type === undefined) {
        if (!subject.startsWith("pl.dead.")) violations.push(`${subject} is not in the catalogue`);
        else violations.push(`dead letter ${subject}: ${headers["pl-dead-reason"]}`);
        continue;
      }
      const name = cloudEventType(type);
      heard.set(name, (heard.get(name) ?? 0) + 1);
      for (const problem of check(type, headers, payload)) violations.push(`${subject}: ${problem}`);
    }
  })();
  return {
    heard,
    violations,
    async stop() {
      await messages.close();
      await listening;
      await bus.close();
    },
  };
}
