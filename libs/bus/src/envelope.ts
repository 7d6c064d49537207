// What stands around a payload: CloudEvents headers in binary mode
// (https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md) and the trace context.
import { randomUUID } from "node:crypto";
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from "@bufbuild/protobuf";
import { headers, type MsgHdrs } from "@nats-io/nats-core";
import { cloudEventType, type EventType, type MessageOf, subjectOf } from "@pilotlight/contracts";
import { PlatformError } from "@pilotlight/errors";
import { outgoingHeaders } from "@pilotlight/telemetry";

/** What a publisher hands over: fields left out have their defaults. */
export type InitOf<T extends EventType> = MessageInitShape<T["schema"]>;

/** A message ready for the wire. */
export type Envelope = {
  /** Event ID; also the ID by which the server and the inbox recognise a repetition. */
  id: string;
  subject: string;
  headers: Record<string, string>;
  payload: Uint8Array;
};

/** Packs a message. With an `id` of one's own a repetition of the same fact is recognised as one. */
export function pack<T extends EventType>(
  service: string,
  type: T,
  init: InitOf<T>,
  id: string = randomUUID(),
): Envelope {
  const message = create(type.schema, init as never) as MessageOf<T>;
  return {
    id,
    subject: subjectOf(type, message),
    headers: {
      "ce-specversion": "1.0",
      "ce-id": id,
      "ce-source": `pilotlight/${service}`,
      "ce-type": cloudEventType(type),
      "ce-time": new Date().toISOString(),
      "content-type": "application/protobuf",
      ...outgoingHeaders(),
    },
    payload: toBinary(type.schema, message as MessageShape<DescMessage>),
  };
}

export function toNatsHeaders(plain: Record<string, string>): MsgHdrs {
  const packed = headers();
  for (const [name, value] of Object.entries(plain)) packed.set(name, value);
  return packed;
}

/** Headers as a plain record with lower-case names. */
export function fromNatsHeaders(packed: MsgHdrs | undefined): Record<string, string> {
  const plain: Record<string, string> = {};
  if (packed !== undefined) for (const name of packed.keys()) plain[name.toLowerCase()] = packed.get(name);
  return plain;
}

/** Unpacks a payload. Throws `corrupt` for bytes that are not such a message. */
export function unpack<T extends EventType>(type: T, payload: Uint8Array): MessageOf<T> {
  try {
    return fromBinary(type.schema, payload) as MessageOf<T>;
  } catch (error) {
    throw new PlatformError("corrupt", `payload is no ${type.schema.typeName}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
