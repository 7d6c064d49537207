// Where things are in a checkout.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** The repository's root. */
export const ROOT = join(import.meta.dirname, "../../..");

/** Names of the services that this checkout has. */
export function serviceNames(): string[] {
  return readdirSync(join(ROOT, "services"))
    .filter((name) => existsSync(join(ROOT, "services", name, "src/main.ts")))
    .sort();
}

/** The program of a service: its bundle, or its sources where the bundle was not built or sources are wanted. */
export function serviceMain(name: string, from: "bundle" | "sources"): string {
  const bundle = join(ROOT, "services", name, "dist/main.js");
  return from === "bundle" && existsSync(bundle) ? bundle : join(ROOT, "services", name, "src/main.ts");
}
