// Configuration: one schema a service, read once at start from defaults, a file and the environment (later wins).
//   file         YAML; `PILOTLIGHT_CONFIG` names it; a section per service and a section `all`, names as here
//   environment  the same names in UPPER_SNAKE; `NAME_FILE` reads the value from a file, for mounted secrets
// Every field has a type with limits, a default or a reason to be required, and a sentence for the reference.
import { readFileSync } from "node:fs";
import { PlatformError } from "@pilotlight/errors";
import { parse as parseYaml } from "yaml";
import * as z from "zod";

/** One setting. `parse` turns a string of the environment or a value of the file into `T`. */
export type Field<T> = {
  schema: z.ZodType<T>;
  /** undefined: the setting is required. */
  default: T | undefined;
  description: string;
  secret: boolean;
};
export type Fields = Record<string, Field<unknown>>;
export type ConfigOf<F extends Fields> = { readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never };

type Range = { min?: number; max?: number };
type Text = { secret?: boolean };

function field<T>(
  schema: z.ZodType<T>,
  fallback: T | undefined,
  description: string,
  secret = false,
): Field<T> {
  return { schema, default: fallback, description, secret };
}

const numberFrom = (schema: z.ZodType<number>) =>
  z.preprocess((value) => (typeof value === "string" && value.trim() !== "" ? Number(value) : value), schema);

const bounded = (range: Range, whole: boolean) => {
  let schema = whole ? z.int() : z.number();
  schema = schema.min(range.min ?? 0);
  if (range.max !== undefined) schema = schema.max(range.max);
  return numberFrom(schema);
};

/** A port to listen on; 0 takes any free one. */
export const port = (fallback: number | undefined, description: string) =>
  field(bounded({ min: 0, max: 65_535 }, true), fallback, description);
/** A duration in milliseconds; the field's name ends in `Ms`. */
export const durationMs = (fallback: number | undefined, description: string, range: Range = {}) =>
  field(bounded({ max: 30 * 24 * 3_600_000, ...range }, true), fallback, description);
/** A size in bytes; the field's name ends in `Bytes` or `BytesMax`. `64MiB` and the like are understood. */
export const bytes = (fallback: number | undefined, description: string, range: Range = {}) =>
  field(z.preprocess(parseSize, bounded(range, true)), fallback, description);
/** A whole number of things. */
export const count = (fallback: number | undefined, description: string, range: Range = {}) =>
  field(bounded(range, true), fallback, description);
/** A number, fractions allowed. */
export const ratio = (fallback: number | undefined, description: string, range: Range = {}) =>
  field(bounded(range, false), fallback, description);
export const flag = (fallback: boolean | undefined, description: string) =>
  field(
    z.preprocess(
      (value) => ({ true: true, "1": true, false: false, "0": false })[String(value)] ?? value,
      z.boolean(),
    ),
    fallback,
    description,
  );
export const text = (fallback: string | undefined, description: string, options: Text = {}) =>
  field(z.coerce.string().max(65_536), fallback, description, options.secret ?? false);
export const choice = <const T extends readonly [string, ...string[]]>(
  options: T,
  fallback: T[number] | undefined,
  description: string,
) => field<T[number]>(z.enum(options), fallback, description);
/** A URI with one of the given schemes, e.g. `["nats", "tls"]`. */
export const uri = (
  schemes: readonly string[],
  fallback: string | undefined,
  description: string,
  options: Text = {},
) =>
  field(
    z.string().refine((value) => value === "" || schemes.some((scheme) => value.startsWith(`${scheme}://`)), {
      error: `must begin with ${schemes.map((scheme) => `${scheme}://`).join(" or ")}`,
    }),
    fallback,
    description,
    options.secret ?? false,
  );
/** Several values: a list in the file, separated by commas in the environment. */
export const list = (fallback: readonly string[] | undefined, description: string) =>
  field<readonly string[]>(
    z.preprocess(
      (value) =>
        typeof value === "string"
          ? value
              .split(",")
              .map((part) => part.trim())
              .filter((part) => part !== "")
          : value,
      z.array(z.string()).max(1000),
    ),
    fallback,
    description,
  );

const SIZE = /^\s*(\d+(?:\.\d+)?)\s*(B|kB|MB|GB|KiB|MiB|GiB)?\s*$/;
const UNITS = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 } as const;

function parseSize(value: unknown): unknown {
  if (typeof value !== "string") return value;
  const match = SIZE.exec(value);
  return match === null
    ? value
    : Math.round(Number(match[1]) * UNITS[(match[2] ?? "B") as keyof typeof UNITS]);
}

/** Settings that every service has. */
export const BASE_FIELDS = {
  adminHost: text("127.0.0.1", "Address of the admin door (health, metrics)."),
  adminPort: port(0, "Port of the admin door; 0 takes any free one."),
  logLevel: choice(["debug", "info", "warn", "error"], "info", "Lines below this level are not written."),
  otlpUrl: uri(
    ["http", "https"],
    "",
    "OTLP/HTTP endpoint for traces, e.g. http://127.0.0.1:4318/v1/traces; empty: no export.",
  ),
  stopTimeoutMs: durationMs(
    30_000,
    "Longest time for a graceful stop after SIGTERM; then the process exits.",
  ),
} satisfies Fields;

/** `camelCase` → `UPPER_SNAKE`. */
export const environmentName = (name: string): string =>
  name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toUpperCase();

export type ConfigSchema<F extends Fields> = { readonly service: string; readonly fields: F };
export type ServiceConfig<F extends Fields> = ConfigOf<F & typeof BASE_FIELDS>;

/** Declares a service's settings. The base settings come by themselves. */
export const defineConfig = <F extends Fields>(
  service: string,
  fields: F,
): ConfigSchema<F & typeof BASE_FIELDS> => ({
  service,
  fields: { ...BASE_FIELDS, ...fields },
});

/**
 * Reads the configuration. Throws `invalidArgument` that lists every problem: field, value, where it came from, what is wrong.
 */
export function loadConfig<F extends Fields>(
  schema: ConfigSchema<F>,
  environment: NodeJS.ProcessEnv,
): ConfigOf<F> {
  const problems: string[] = [];
  const fromFile = readFileSections(environment.PILOTLIGHT_CONFIG, schema, problems);
  const values: Record<string, unknown> = {};
  for (const [name, setting] of Object.entries(schema.fields)) {
    const source = pick(name, fromFile, environment, problems);
    if (source === undefined) {
      if (setting.default === undefined)
        problems.push(`${name} is required: set ${environmentName(name)}. ${setting.description}`);
      else values[name] = setting.default;
      continue;
    }
    const result = setting.schema.safeParse(source.value);
    if (result.success) values[name] = result.data;
    else {
      const shown = setting.secret ? "(secret)" : JSON.stringify(source.value);
      problems.push(
        `${name} = ${shown} (from ${source.origin}): ${result.error.issues.map((issue) => issue.message).join("; ")}`,
      );
    }
  }
  if (problems.length > 0) {
    throw new PlatformError(
      "invalidArgument",
      `configuration of ${schema.service}:\n  ${problems.join("\n  ")}`,
      {
        remedy: `See 'pilotlight config ${schema.service}' for every setting.`,
      },
    );
  }
  return values as ConfigOf<F>;
}

type Sourced = { value: unknown; origin: string };

function pick(
  name: string,
  fromFile: Record<string, Sourced>,
  environment: NodeJS.ProcessEnv,
  problems: string[],
): Sourced | undefined {
  const variable = environmentName(name);
  const file = environment[`${variable}_FILE`];
  if (file !== undefined) {
    try {
      return { value: readFileSync(file, "utf8").trim(), origin: `${variable}_FILE` };
    } catch (error) {
      problems.push(`${name}: ${variable}_FILE = '${file}' cannot be read: ${(error as Error).message}`);
      return undefined;
    }
  }
  const value = environment[variable];
  return value === undefined ? fromFile[name] : { value, origin: variable };
}

function readFileSections(
  path: string | undefined,
  schema: ConfigSchema<Fields>,
  problems: string[],
): Record<string, Sourced> {
  if (path === undefined || path === "") return {};
  const values: Record<string, Sourced> = {};
  let parsed: unknown;
  try {
    parsed = parseYaml(readFileSync(path, "utf8"), { maxAliasCount: 100 }) ?? {};
  } catch (error) {
    problems.push(`PILOTLIGHT_CONFIG = '${path}' cannot be read: ${(error as Error).message}`);
    return values;
  }
  const sections = z.record(z.string(), z.record(z.string(), z.unknown())).safeParse(parsed);
  if (!sections.success) {
    problems.push(`${path}: expected a section per service, each a mapping of settings`);
    return values;
  }
  for (const section of ["all", schema.service]) {
    for (const [name, value] of Object.entries(sections.data[section] ?? {})) {
      // `all` may hold settings that this service does not have.
      if (name in schema.fields) values[name] = { value, origin: `${path}, ${section}` };
      else if (section !== "all")
        problems.push(`${path}: ${section}.${name} is not a setting of ${schema.service}`);
    }
  }
  return values;
}

/** The reference of a service's settings, as rows for a table. */
export function configReference(
  schema: ConfigSchema<Fields>,
): { name: string; environment: string; default: string; description: string }[] {
  return Object.entries(schema.fields).map(([name, setting]) => ({
    name,
    environment: environmentName(name),
    default: setting.default === undefined ? "(required)" : JSON.stringify(setting.default),
    description: setting.description,
  }));
}
