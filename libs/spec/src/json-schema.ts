// The JSON Schema of the application file, made from the zod schema so that editors and the parser agree.
import * as z from "zod";
import { applicationSchema } from "./schema.ts";

/** The schema's text as it is committed: what people may write, so fields with a default are optional. */
export function applicationJsonSchema(): string {
  const schema = z.toJSONSchema(applicationSchema, { io: "input", target: "draft-7", reused: "inline" });
  return `${JSON.stringify(schema, null, 2)}\n`;
}
