// One form for one meaning. Two files that say the same (in another order of fields, with defaults written out or
// left out, with comments, anchors, another line ending) have the same canonical form and so the same digest; a version
// is identified by it, and deploying the same file twice makes no new version.
//
// The form is JSON with sorted keys, as RFC 8785 does it for our values: no floats that print differently, no
// `undefined`, strings as they are.
import { createHash } from "node:crypto";
import type { Application } from "./schema.ts";

/** The canonical JSON text. The order of deployments has no meaning and is sorted; lists inside keep theirs. */
export function canonicalApplication(application: Application): string {
  const deployments = application.deployments.toSorted((a, b) =>
    a.name < b.name ? -1 : a.name > b.name ? 1 : 0,
  );
  return JSON.stringify(sorted({ ...application, deployments }));
}

/** `sha256:` and 64 hex digits over the canonical form. */
export function digestApplication(application: Application): string {
  return `sha256:${createHash("sha256").update(canonicalApplication(application)).digest("hex")}`;
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, inner]) => inner !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, inner]) => [key, sorted(inner)]),
  );
}
