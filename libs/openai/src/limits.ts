// What one request may hold. The body as a whole is bounded where it is read; these bound what is inside it.

export const OPENAI_LIMITS = {
  messagesMax: 4096,
  contentPartsMax: 1024,
  toolsMax: 512,
  stopSequencesMax: 16,
  stopLengthMax: 512,
  choicesMax: 16,
  logitBiasMax: 1024,
  topLogprobsMax: 20,
  embeddingInputsMax: 2048,
  promptsMax: 256,
  tokensPerInputMax: 1_048_576,
  modelNameLengthMax: 256,
  userLengthMax: 512,
} as const;
