// What control answers, and how to ask it. The service serves these schemas, the command line and the console read them.
export {
  type ControlClient,
  type ControlClientOptions,
  controlClient,
  type FileProblems,
  type LogQuery,
} from "./client.ts";
export * from "./schemas.ts";
