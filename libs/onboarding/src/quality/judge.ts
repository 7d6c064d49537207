// How a model takes a text, by the engine that comes with the platform: for each of some tokens the probability that the model
// gives it, and what it would have said itself. The engine runs plain weights, so of a quantised model it gets what the
// artefact's codes stand for, read back from where they were written.
import { createEngine, type Engine, type EngineOptions, type PushedTensor } from "@pilotlight/engine";
import { toPlatformError } from "@pilotlight/errors";
import { JUDGED_TEXT } from "./text.ts";

/** The text is taken in pieces of so many tokens; of each the tokens from `CONTEXT_TOKENS` on are judged. */
const PIECE_TOKENS = 48;
const CONTEXT_TOKENS = 16;
/** The engine gives no more. */
const LIKELIEST = 20;
/** Larger than any difference of logits, within what the engine takes. */
const FORCING_BIAS = 1_000;
const AT_ONCE = 32;
const KV_TOKENS = 4096;

/** One judged token: log probabilities, in nats. */
export type Judged = { logprob: number; likeliest: { tokenId: number; logprob: number }[] };

export type Judgement = { judged: Judged[] } | { impossible: string };

/** `files`: config.json, tokenizer.json and others by name. `impossible` says why no engine here runs the model. */
export async function judge(
  files: ReadonlyMap<string, Uint8Array>,
  tensors: AsyncIterable<PushedTensor>,
  signal: AbortSignal,
): Promise<Judgement> {
  const options = engineOptions(files);
  if ("impossible" in options) return options;
  let engine: Engine;
  try {
    engine = await createEngine(options);
  } catch (thrown) {
    return { impossible: toPlatformError(thrown).message };
  }
  try {
    if (engine.model.kind !== "decoder") return { impossible: "the model writes no text" };
    for await (const tensor of tensors) await engine.push(tensor);
    await engine.ready;
    return { judged: await judgeText(engine, signal) };
  } finally {
    await engine.close();
  }
}

function engineOptions(files: ReadonlyMap<string, Uint8Array>): EngineOptions | { impossible: string } {
  const text = (name: string): string | null => {
    const bytes = files.get(name);
    return bytes === undefined ? null : Buffer.from(bytes).toString("utf8");
  };
  const [configJson, tokenizerJson] = [text("config.json"), text("tokenizer.json")];
  if (configJson === null || tokenizerJson === null) {
    return { impossible: "the repository lacks config.json or tokenizer.json" };
  }
  const tokenizerConfigJson = text("tokenizer_config.json");
  return { configJson, tokenizerJson, tokenizerConfigJson, kvTokensMax: KV_TOKENS, sequencesMax: AT_ONCE };
}

async function judgeText(engine: Engine, signal: AbortSignal): Promise<Judged[]> {
  const tokens = await engine.tokenize(JUDGED_TEXT, { addSpecialTokens: false });
  const places = [];
  for (let begin = 0; begin + PIECE_TOKENS <= tokens.length; begin += PIECE_TOKENS) {
    for (let at = begin + CONTEXT_TOKENS; at < begin + PIECE_TOKENS; at++) places.push({ begin, at });
  }
  const judged: Judged[] = [];
  for (let first = 0; first < places.length; first += AT_ONCE) {
    const some = places.slice(first, first + AT_ONCE).map(({ begin, at }) => {
      return judgeToken(engine, tokens.slice(begin, at), tokens[at] as number, signal);
    });
    judged.push(...(await Promise.all(some)));
  }
  return judged;
}

/** The engine tells the probability of what it says, so it is made to say this token; the bias leaves what it tells alone. */
async function judgeToken(
  engine: Engine,
  promptTokenIds: number[],
  token: number,
  signal: AbortSignal,
): Promise<Judged> {
  const request = {
    promptTokenIds,
    maxTokens: 1,
    temperature: 0,
    ignoreEos: true,
    logprobs: LIKELIEST,
    logitBias: { [token]: FORCING_BIAS },
    presencePenalty: 0,
    frequencyPenalty: 0,
  };
  let judged: Judged = { logprob: Number.NaN, likeliest: [] };
  for await (const { logprobs } of engine.generate(request, { signal })) {
    const [one] = logprobs ?? [];
    if (one !== undefined) judged = { logprob: one.logprob, likeliest: one.top };
  }
  signal.throwIfAborted();
  return judged;
}
