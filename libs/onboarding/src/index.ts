// Onboarding: everything that is done to a model is done once, when it is added, and nothing when it starts.
export { type AddTransformedOptions, addTransformed } from "./add-transformed.ts";
export type { Transformation } from "./options.ts";
export { QUALITY_FILE, type QualityRecord } from "./quality/record.ts";
export { parseScheme, SCHEMES, type Scheme } from "./quantise/scheme.ts";
