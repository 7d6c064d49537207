// What a process that a service starts gets of the service's own environment: everything but its secrets.
import { type ConfigSchema, environmentName, type Fields } from "./config.ts";

/** The environment without the settings that the schema calls secret. */
export function childEnvironment(
  schema: ConfigSchema<Fields>,
  environment: NodeJS.ProcessEnv = process.env,
): NodeJS.ProcessEnv {
  const left = { ...environment };
  for (const [name, field] of Object.entries(schema.fields)) {
    if (!field.secret) continue;
    delete left[environmentName(name)];
    delete left[`${environmentName(name)}_FILE`];
  }
  return left;
}
