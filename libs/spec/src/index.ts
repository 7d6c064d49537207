// The application file: its schema, its parser and what is computed from it.
export { canonicalApplication, digestApplication } from "./canonical.ts";
export { type Change, diffApplications } from "./diff.ts";
export { formatImage, type ImageParsed, type ImageReference, parseImage } from "./image.ts";
export {
  type ModelScheme,
  type ModelSource,
  type ModelSourceParsed,
  parseModelSource,
} from "./model-source.ts";
export { formatProblem, type Parsed, type ParseOptions, parseApplication } from "./parse.ts";
export type { Problem } from "./problem.ts";
export type {
  Admission,
  Application,
  ApplicationInput,
  Autoscaling,
  Deployment,
  EmbeddedEngine,
  Engine,
  Gates,
  Model,
  ProcessEngine,
  Resources,
  Rollout,
} from "./schema.ts";
export { applicationSchema } from "./schema.ts";
