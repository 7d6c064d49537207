// What both sides ask of the engine, and how it is set.

/** Tokens; the answer is one, drawn greedily. */
export const PROMPT = [72, 101, 108, 108, 111];

export const ENGINE = {
  dtype: "bf16",
  contextTokensMax: 256,
  kvTokensMax: 512,
  sequencesMax: 2,
} as const;
