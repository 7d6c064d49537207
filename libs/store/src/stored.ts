// Documents in JSON columns: the database does not know their shape, so it is checked when they are read.
import { PlatformError } from "@pilotlight/errors";
import type * as z from "zod";

/**
 * A document as its type. Throws `corrupt` for one of another shape. `what`: the document in the words of the message,
 * e.g. `state of rollout r-1`.
 */
export function readStored<T>(schema: z.ZodType<T>, stored: unknown, what: string): T {
  const { success, data, error } = schema.safeParse(stored);
  if (success) return data;
  const [issue] = error.issues;
  throw new PlatformError("corrupt", `the ${what} cannot be read: ${issue?.message}`, {
    ...(issue === undefined ? {} : { field: issue.path.join(".") }),
    remedy:
      "It was changed by hand, or written by another version of the service: restore it, or run that version.",
  });
}
