// Writes `application.schema.json`. Run with `npm run generate -w @pilotlight/spec`; a test fails when it is stale.
import { writeFileSync } from "node:fs";
import { applicationJsonSchema } from "../src/json-schema.ts";

const target = new URL("../application.schema.json", import.meta.url);
writeFileSync(target, applicationJsonSchema());
console.log(`wrote ${target.pathname}`);
