import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DescField, type DescMessage, ScalarType } from "@bufbuild/protobuf";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import { describe, expect, test } from "vitest";
import { asyncApiDocument } from "./asyncapi.ts";
import {
  create,
  EVENTS,
  type EventType,
  eventOfSubject,
  filterOf,
  fromBinary,
  keyToken,
  subjectOf,
  toBinary,
  toJson,
} from "./index.ts";

const root = join(import.meta.dirname, "../../..");
const entries = Object.entries(EVENTS) as [string, EventType][];

describe("the catalogue", () => {
  test.each(entries)("%s has a subject of its own that leads back to it", (name, type) => {
    const message = create(type.schema, sample(type.schema) as never);
    const subject = subjectOf(type, message as never);
    expect(subject).toMatch(/^pl\.(evt|doc|smp|log)\.v1\.[a-z_]+\.[a-z_]+\.[a-z_]+(\.[A-Za-z0-9_-]+)*$/);
    expect(eventOfSubject(subject)?.name).toBe(name);
    expect(filterOf(type).split(".").length).toBe(subject.split(".").length);
  });
  test("a key that would widen a subject is refused by name", () => {
    for (const hostile of ["a.b", "*", ">", "", "a b", "x".repeat(129)]) {
      expect(() => keyToken("application", hostile)).toThrow(
        expect.objectContaining({ field: "application" }),
      );
    }
    expect(() => filterOf(EVENTS.trafficSet, { application: ">" })).toThrow("cannot be part of a subject");
  });
  test("subjects outside the catalogue belong to nobody", () => {
    expect(eventOfSubject("pl.evt.v1.control.version.renamed.chat")).toBeUndefined();
  });
});

describe("the AsyncAPI document", () => {
  const document = asyncApiDocument();
  const ajv = new Ajv2020({ strict: false });
  formats.default(ajv);
  ajv.addSchema(document, "asyncapi");

  test("is the one that is committed", () => {
    expect(JSON.parse(readFileSync(join(root, "docs/reference/asyncapi.json"), "utf8"))).toEqual(
      JSON.parse(JSON.stringify(document)),
    );
  });
  test.each(entries)(
    "%s: a message with every field set validates, an unknown field does not",
    (_name, type) => {
      const filled = create(type.schema, sample(type.schema) as never);
      const decoded = fromBinary(type.schema, toBinary(type.schema, filled));
      const json = toJson(type.schema, decoded) as Record<string, unknown>;
      const validate = ajv.getSchema(`asyncapi#/components/schemas/${type.schema.typeName}`);
      if (validate === undefined) throw new Error(`no schema for ${type.schema.typeName}`);
      expect(validate(json), JSON.stringify(validate.errors)).toBe(true);
      expect(Object.keys(json).length).toBe(type.schema.fields.length);
      expect(validate({ ...json, unheardOf: 1 })).toBe(false);
    },
  );
});

test("the generated code is what proto/ says", () => {
  const out = mkdtempSync(join(tmpdir(), "contracts-"));
  try {
    const binaries = join(root, "node_modules/.bin");
    execFileSync(join(binaries, "buf"), ["generate", "-o", out], {
      cwd: join(root, "libs/contracts"),
      env: { ...process.env, PATH: `${binaries}:${process.env.PATH}` },
    });
    const files = (dir: string) =>
      readdirSync(dir, { recursive: true, encoding: "utf8" })
        .filter((f) => /\.(js|ts)$/.test(f))
        .sort();
    const committed = join(root, "libs/contracts/src/gen");
    expect(files(join(out, "src/gen"))).toEqual(files(committed));
    for (const file of files(committed)) {
      expect(readFileSync(join(out, "src/gen", file), "utf8"), file).toBe(
        readFileSync(join(committed, file), "utf8"),
      );
    }
  } finally {
    rmSync(out, { recursive: true });
  }
});

/** A message with every field set to something that is not its default, oneofs by their last member excepted. */
function sample(desc: DescMessage, depth = 0): Record<string, unknown> {
  if (desc.typeName === "google.protobuf.Timestamp") return { seconds: 1_700_000_000n, nanos: 5_000_000 };
  const value: Record<string, unknown> = {};
  for (const field of desc.fields) {
    if (depth > 6) break;
    if (field.oneof !== undefined)
      value[field.oneof.localName] = { case: field.localName, value: one(field, depth) };
    else if (field.fieldKind === "list") value[field.localName] = [one(field, depth)];
    else if (field.fieldKind === "map") value[field.localName] = { key: one(field, depth) };
    else value[field.localName] = one(field, depth);
  }
  return value;
}

function one(field: DescField, depth: number): unknown {
  if (field.message !== undefined) return sample(field.message, depth + 1);
  if (field.enum !== undefined) return field.enum.values[1]?.number;
  switch (field.scalar) {
    case ScalarType.STRING:
      return "text";
    case ScalarType.BOOL:
      return true;
    case ScalarType.BYTES:
      return new Uint8Array([1, 2]);
    case ScalarType.UINT64:
    case ScalarType.INT64:
      return 7n;
    default:
      return 3;
  }
}
