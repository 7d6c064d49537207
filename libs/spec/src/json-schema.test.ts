import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { applicationJsonSchema } from "./json-schema.ts";

const committed = readFileSync(new URL("../application.schema.json", import.meta.url), "utf8");

test("the committed JSON Schema is what the zod schema says (else: npm run generate -w @pilotlight/spec)", () => {
  expect(committed).toBe(applicationJsonSchema());
});

test("every field has a description, and nothing unknown is allowed", () => {
  const missing: string[] = [];
  const walk = (node: unknown, path: string) => {
    if (typeof node !== "object" || node === null) return;
    const { properties, ...rest } = node as { properties?: Record<string, { description?: string }> };
    if (properties !== undefined)
      expect((node as { additionalProperties?: unknown }).additionalProperties).toBe(false);
    for (const [name, schema] of Object.entries(properties ?? {})) {
      if (schema.description === undefined) missing.push(`${path}.${name}`);
      walk(schema, `${path}.${name}`);
    }
    for (const value of Object.values(rest)) walk(value, path);
  };
  walk(JSON.parse(committed), "");
  expect(missing).toEqual([]);
});
