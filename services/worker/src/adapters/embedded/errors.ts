// The engine names its own fields in errors; clients know the OpenAI API's.
import { PlatformError } from "@pilotlight/errors";

const FIELDS: Readonly<Record<string, string>> = {
  maxTokens: "max_tokens",
  temperature: "temperature",
  topP: "top_p",
  topK: "top_k",
  seed: "seed",
  stop: "stop",
  logitBias: "logit_bias",
  presencePenalty: "presence_penalty",
  frequencyPenalty: "frequency_penalty",
  logprobs: "logprobs",
  tools: "tools",
  templateVariables: "chat_template_kwargs",
  resumeTokenIds: "pilotlight.resume_token_ids",
};

/** The same error in the client's words. `promptField` is what the request calls its prompt. */
export function inClientsWords(error: PlatformError, promptField: string): PlatformError {
  const path = /^(?:request\.(?<name>[A-Za-z]+)|inputs(?<index>\[\d+\]))/.exec(error.field ?? "")?.groups;
  if (path === undefined) return error;
  const field = path.name === undefined ? `${promptField}${path.index}` : (FIELDS[path.name] ?? promptField);
  return new PlatformError(error.code, error.message.replaceAll(error.field ?? "", field), {
    field,
    cause: error,
    ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
    ...(error.retryAfterMs === undefined ? {} : { retryAfterMs: error.retryAfterMs }),
  });
}
