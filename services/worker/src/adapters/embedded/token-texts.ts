// The text of single tokens, for log probabilities. A token that is part of a character has the replacement character as its
// text, as in the OpenAI API.
import type { Engine, TokenLogprob } from "@pilotlight/engine";

/** Texts kept; more than a vocabulary is never needed. */
const TEXTS_MAX = 300_000;

export class TokenTexts {
  readonly #engine: Pick<Engine, "detokenize">;
  readonly #known = new Map<number, string>();

  constructor(engine: Pick<Engine, "detokenize">) {
    this.#engine = engine;
  }

  async describe({ tokenId, logprob }: TokenLogprob) {
    const token = await this.#textOf(tokenId);
    return { token, logprob, bytes: [...Buffer.from(token)] };
  }

  async #textOf(tokenId: number): Promise<string> {
    const known = this.#known.get(tokenId);
    if (known !== undefined) return known;
    const text = await this.#engine.detokenize([tokenId]);
    if (this.#known.size < TEXTS_MAX) this.#known.set(tokenId, text);
    return text;
  }
}
